package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/controllers/manifests"
	"github.com/podfence/podfence/policy"
)

// Manifests feeds the enforcer from a folder of YAML, and again whenever that
// changes. While the folder is not valid, or empty, the last valid state is enforced:
// before there is one, what the agent before has left in the kernel.
type Manifests struct {
	path     string
	enforcer *Enforcer
	log      logr.Logger
	metrics  *metrics
	// keepIfEmpty: a folder without objects is not a cluster without pods.
	keepIfEmpty bool

	mu   sync.Mutex
	last policy.Snapshot
	said string // the error as last logged
}

// errNoManifests is why an empty folder is not what is enforced.
var errNoManifests = errors.New("there are no manifests, as in a volume that is not mounted: no pod would be fenced; --allow-empty takes that for what is meant")

// Reload reads the folder. On return the enforcer has been fed all of it, or,
// with an error, nothing.
func (m *Manifests) Reload() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now, err := manifests.Load(m.path)
	var empty error
	if err == nil && m.keepIfEmpty && manifests.Empty(now) {
		empty = fmt.Errorf("%s: %w", m.path, errNoManifests)
		err = empty
	}
	m.enforcer.health.Set(ManifestsEmpty, empty)
	if err != nil {
		m.metrics.manifests.Set(0)
		return err
	}
	m.metrics.manifests.Set(1)
	_ = m.enforcer.feed(func() ([]policy.Change, error) {
		return slices.Concat(
			differing(m.last.Nodes, now.Nodes, m.enforcer.setNode, func(n *corev1.Node) policy.Change { return m.enforcer.nodeGone(n.Name) }),
			differing(m.last.Namespaces, now.Namespaces, changeOf, gone),
			differing(m.last.Pods, now.Pods, changeOf, gone),
			differing(m.last.Policies, now.Policies, changeOf, gone),
		), nil
	})
	m.last = now
	m.enforcer.Begin()
	return nil
}

// differing are the changes from what was there before to what is there now.
func differing[T client.Object](before, now []T, set, gone func(T) policy.Change) (changes []policy.Change) {
	there := map[policy.Key]bool{}
	for _, object := range now {
		there[client.ObjectKeyFromObject(object)] = true
		changes = append(changes, set(object))
	}
	for _, object := range before {
		if !there[client.ObjectKeyFromObject(object)] {
			changes = append(changes, gone(object))
		}
	}
	return changes
}

func changeOf[T client.Object](object T) policy.Change { return policy.ChangeOf(object) }
func gone[T client.Object](object T) policy.Change     { return policy.Gone(object) }

// Start reads the folder, and again whenever it changes, until ctx is done. It
// implements manager.Runnable.
func (m *Manifests) Start(ctx context.Context) error {
	return manifests.Watch(ctx, m.path, m.reload)
}

// reload reads the folder and says so when it cannot be used, once.
func (m *Manifests) reload() {
	err := m.Reload()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case errors.Is(err, errNoManifests): // the condition says so
	case err == nil && m.said != "":
		m.log.Info("The manifests are valid again", "path", m.path)
		m.said = ""
	case err != nil && m.said != err.Error():
		m.log.Error(err, "The manifests are not valid; what was enforced before stays in force", "path", m.path)
		m.said = err.Error()
	}
}
