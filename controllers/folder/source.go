package folder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/controllers/nodes"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/manifests"
	"github.com/podfence/podfence/policy"
)

// Source feeds an enforcer from a folder of YAML, and again whenever that
// changes. While the folder is not valid, or empty, the last valid state is enforced:
// before there is one, what the agent before has left in the kernel.
type Source struct {
	SourceOptions

	mu    sync.Mutex
	nodes *nodes.Known
	last  policy.Snapshot
	// logged is the error, and skipped what was passed over, as last logged.
	logged, skipped string
}

// SourceOptions are what a Source is told.
type SourceOptions struct {
	// Path is the folder.
	Path string
	// KeepIfEmpty: a folder without objects is not a cluster without pods.
	KeepIfEmpty bool
	// EarlierAddr is another Node's address as an earlier agent's tunnel still has it, or the
	// zero Addr: it counts while that Node shows none of its family. Nil: nobody knows.
	EarlierAddr func(node string) netip.Addr

	Enforcer *enforcer.Enforcer
	Report   *report.Reporter
	Log      logr.Logger
}

// NewSource returns a source that feeds nothing before Reload or Start.
func NewSource(o SourceOptions) *Source {
	return &Source{SourceOptions: o, nodes: nodes.NewKnown(o.EarlierAddr, o.Log)}
}

// errNoManifests is why an empty folder is not what is enforced.
var errNoManifests = errors.New("there are no manifests, as in a volume that is not mounted: no pod would be fenced; --allow-empty takes that for what is meant")

// Reload reads the folder. On return the enforcer has been fed all of it, or,
// with an error, nothing.
func (m *Source) Reload() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now, err := m.read()
	var empty error
	if err == nil && m.KeepIfEmpty && manifests.Empty(now) {
		empty = fmt.Errorf("%s: %w", m.Path, errNoManifests)
		err = empty
	}
	m.Report.Health.Set(report.ManifestsEmpty, empty)
	if err != nil {
		m.Report.Metrics.ManifestsValid(false)
		return err
	}
	m.Report.Metrics.ManifestsValid(true)
	changed := append(different(m.last.Policies, now.Policies), different(m.last.ClusterPolicies, now.ClusterPolicies)...)
	for _, key := range changed {
		m.Report.Enforcement.Arrived(key)
	}
	fed := m.Enforcer.Feed(append(slices.Concat(
		differing(m.last.Nodes, now.Nodes, m.nodes.Set, func(n *corev1.Node) policy.Change { return m.nodes.Gone(n.Name) }),
		differing(m.last.Namespaces, now.Namespaces, changeOf, gone),
		differing(m.last.Pods, now.Pods, changeOf, gone),
		differing(m.last.Policies, now.Policies, changeOf, gone),
		differing(m.last.ClusterPolicies, now.ClusterPolicies, changeOf, gone),
	), policy.Synced())...)
	for _, key := range changed {
		m.Report.Enforcement.FedUndated(key, fed)
	}
	count(m.Report.Counting, m.last.Policies, now.Policies)
	count(m.Report.Counting, m.last.ClusterPolicies, now.ClusterPolicies)
	m.last = now
	return nil
}

// WantsDropLog reports whether a namespace asks for the drop log, as the last valid state of the folder has it.
// It may be called from any goroutine.
func (m *Source) WantsDropLog(namespace string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.last.Namespaces, func(ns *corev1.Namespace) bool {
		return ns.Name == namespace && ns.Annotations[flows.DropLogAnnotation] == "true"
	})
}

// NetworkPolicy is a NetworkPolicy of the last valid state of the folder, which nobody may change; nil: there is
// none. It may be called from any goroutine, and waits while the folder is read.
func (m *Source) NetworkPolicy(key policy.Key) *networkingv1.NetworkPolicy {
	m.mu.Lock()
	defer m.mu.Unlock()
	return find(m.last.Policies, key)
}

// ClusterNetworkPolicy is a ClusterNetworkPolicy of the last valid state of the folder, as NetworkPolicy is of
// the other kind.
func (m *Source) ClusterNetworkPolicy(name string) *clusterv1beta1.ClusterNetworkPolicy {
	m.mu.Lock()
	defer m.mu.Unlock()
	return find(m.last.ClusterPolicies, policy.Key{Name: name})
}

// find returns the object of a key; its zero value: there is none.
func find[T client.Object](objects []T, key policy.Key) (object T) {
	if at := slices.IndexFunc(objects, func(o T) bool { return client.ObjectKeyFromObject(o) == key }); at >= 0 {
		object = objects[at]
	}
	return object
}

// count says which policies ask for metrics of their own.
func count[T client.Object](counting *report.Counting, before, now []T) {
	gone := map[policy.Key]struct{}{}
	for _, object := range before {
		gone[client.ObjectKeyFromObject(object)] = struct{}{}
	}
	for _, object := range now {
		delete(gone, client.ObjectKeyFromObject(object))
		counting.Set(object)
	}
	for key := range gone {
		counting.Gone(key)
	}
}

// different are the policies that have come or changed.
func different[T client.Object](before, now []T) (keys []policy.Key) {
	was := map[policy.Key]T{}
	for _, object := range before {
		was[client.ObjectKeyFromObject(object)] = object
	}
	for _, object := range now {
		key := client.ObjectKeyFromObject(object)
		if old, is := was[key]; !is || !equality.Semantic.DeepEqual(old, object) {
			keys = append(keys, key)
		}
	}
	return keys
}

// read reads the folder, and says once what it passes over.
func (m *Source) read() (policy.Snapshot, error) {
	objects, err := manifests.Load(m.Path)
	if err != nil {
		return policy.Snapshot{}, err
	}
	if skipped := objects.SkippedText(); skipped != m.skipped {
		m.skipped = skipped
		m.Log.Info("Passing over objects in the folder", "path", m.Path, "skipped", cmp.Or(skipped, "none any more"))
	}
	return objects.Snapshot, nil
}

// differing are the changes from what was there before to what is there now.
func differing[T client.Object](before, now []T, set, gone func(T) policy.Change) (changes []policy.Change) {
	has := map[policy.Key]bool{}
	for _, object := range now {
		has[client.ObjectKeyFromObject(object)] = true
		changes = append(changes, set(object))
	}
	for _, object := range before {
		if !has[client.ObjectKeyFromObject(object)] {
			changes = append(changes, gone(object))
		}
	}
	return changes
}

func changeOf[T client.Object](object T) policy.Change { return policy.ChangeOf(object) }
func gone[T client.Object](object T) policy.Change     { return policy.Gone(object) }

// Start reads the folder, and again whenever it changes, until ctx is done. It
// implements manager.Runnable.
func (m *Source) Start(ctx context.Context) error {
	return manifests.Watch(ctx, m.Path, m.reload)
}

// reload reads the folder and says so when it cannot be used, once.
func (m *Source) reload() {
	err := m.Reload()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case errors.Is(err, errNoManifests): // the condition says so
	case err == nil && m.logged != "":
		m.Log.Info("The manifests are valid again", "path", m.Path)
		m.logged = ""
	case err != nil && m.logged != err.Error():
		m.Log.Error(err, "The manifests are not valid; what was enforced before stays in force", "path", m.Path)
		m.logged = err.Error()
	}
}
