package controllers

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
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
	m.enforcer.Feed(func(model *policy.Model) {
		feedChanges(m.last.Nodes, now.Nodes, func(n *corev1.Node) { m.enforcer.setNode(model, n) }, func(k policy.Key) { m.enforcer.deleteNode(model, k.Name) })
		feedChanges(m.last.Namespaces, now.Namespaces, func(ns *corev1.Namespace) { setNamespace(model, ns) }, func(k policy.Key) { model.DeleteNamespace(k.Name) })
		feedChanges(m.last.Pods, now.Pods, func(p *corev1.Pod) { setPod(model, p) }, model.DeletePod)
		feedChanges(m.last.Policies, now.Policies, func(np *networkingv1.NetworkPolicy) { setPolicy(model, np) }, model.DeletePolicy)
	})
	m.last = now
	m.enforcer.Begin()
	return nil
}

// feedChanges sets what is there now, and removes what was there before only.
func feedChanges[T client.Object](before, now []T, set func(T), remove func(policy.Key)) {
	there := map[policy.Key]bool{}
	for _, object := range now {
		there[client.ObjectKeyFromObject(object)] = true
		set(object)
	}
	for _, object := range before {
		if key := client.ObjectKeyFromObject(object); !there[key] {
			remove(key)
		}
	}
}

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

func setPod(m *policy.Model, p *corev1.Pod) {
	if pod, seen := policy.PodOf(p); seen {
		m.SetPod(pod)
	} else {
		m.DeletePod(client.ObjectKeyFromObject(p))
	}
}
