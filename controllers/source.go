package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/controllers/nodes"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
)

// Options are what a Source is told.
type Options struct {
	// Node is the name of the agent's node.
	Node string
	// Enforcer gets the changes.
	Enforcer *enforcer.Enforcer
	// Report gets what is wrong with objects.
	Report *report.Reporter
	// Direct asks the API server without a cache; it is for the lists that ADDs wait for alone, so
	// that nothing else waits for what it waits for.
	Direct client.Reader
	// EarlierAddr is another Node's address as an earlier agent's tunnel still has it, or the
	// zero Addr: it counts while that Node shows none of its family. Nil: nobody knows.
	EarlierAddr func(node string) netip.Addr
	// Clock says when to look for what policies cannot mean.
	Clock clock.WithTicker
	Log   logr.Logger
}

// Source feeds an enforcer from an API server. Each of its reconcilers reads a cache and feeds what
// it has read in one step, so that the model never goes back in time.
type Source struct {
	enforcer *enforcer.Enforcer
	report   *report.Reporter
	// podSizes, policySizes and clusterSizes are how much memory the objects take that the caches
	// keep.
	podSizes     *podSizes
	policySizes  *policySizes
	clusterSizes *clusterPolicySizes
	fed          *fedObjects
	lists        *lists
	// cache, pods, direct and cluster are set up with the manager.
	cache   client.Reader
	pods    podStore
	direct  client.Reader
	cluster *clusterPolicies
	// loading says that the first load has begun. A pod that is in the cache before that is no
	// news, because the first load reads the cache.
	loading atomic.Bool

	// mu makes one step of reading and feeding, and guards nodes.
	mu    sync.Mutex
	nodes *nodes.Known
}

// NewSource returns a source that feeds nothing before SetupWithManager.
func NewSource() *Source {
	return &Source{podSizes: newPodSizes(), policySizes: newPolicySizes(), clusterSizes: newClusterPolicySizes(), fed: newFedObjects()}
}

// CacheOptions are those that the manager's cache must have.
func (s *Source) CacheOptions() cache.Options { return cacheOptions(s.podSizes, s.policySizes) }

// Metrics are the source's own.
func (s *Source) Metrics() prometheus.Collector { return s.podSizes.metric() }

// SetupWithManager has the manager feed the enforcer. The manager's cache must have CacheOptions.
func (s *Source) SetupWithManager(mgr manager.Manager, o Options) error {
	s.enforcer, s.report = o.Enforcer, o.Report
	s.nodes = nodes.NewKnown(o.EarlierAddr, o.Log.WithName("nodes"))
	s.direct, s.lists = o.Direct, newLists(s.list)
	s.podSizes.tell(o.Report.TooLarge)
	s.cache = mgr.GetCache()
	var err error
	if s.pods, err = podsOf(context.Background(), mgr.GetCache()); err != nil {
		return err
	}
	kind, err := newClusterKind(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return err
	}
	s.cluster = newClusterPolicies(s, kind, o.Log.WithName("clusternetworkpolicies"))
	for _, setup := range []func(manager.Manager) error{
		(&NodeReconciler{s}).SetupWithManager,
		(&NamespaceReconciler{s}).SetupWithManager,
		(&PodReconciler{s}).SetupWithManager,
		(&NetworkPolicyReconciler{s}).SetupWithManager,
	} {
		if err := setup(mgr); err != nil {
			return err
		}
	}
	return errors.Join(mgr.Add(s.cluster), mgr.Add(&firstLoad{s, mgr.GetCache()}), mgr.Add(newPolicyLinter(s, o)))
}

// Pod is what the API shows of a pod; nil: it is not known, or policy does not see it.
func (s *Source) Pod(key policy.Key) *policy.Pod {
	pod, err := s.pods.pod(key)
	if err != nil {
		return nil
	}
	return pod
}

// NodeUID is the UID of a Node as the cache has it; empty: there is none.
func (s *Source) NodeUID(name string) types.UID {
	node := &corev1.Node{}
	if s.cache.Get(context.Background(), client.ObjectKey{Name: name}, node) != nil {
		return ""
	}
	return node.UID
}

// Policy returns a NetworkPolicy as the cache has it, or a ClusterNetworkPolicy that was fed, without its
// specification; nil: there is none.
func (s *Source) Policy(key policy.Key) client.Object {
	if s.cache == nil {
		return nil
	}
	if key.Namespace == "" {
		if cnp := s.cluster.policy(key.Name); cnp != nil {
			return cnp
		}
		return nil
	}
	np := &networkingv1.NetworkPolicy{}
	if s.cache.Get(context.Background(), key, np) != nil {
		return nil
	}
	return np
}

// NetworkPolicy is a NetworkPolicy as the cache has it, which nobody may change; nil: there is none. It may be
// called from any goroutine.
func (s *Source) NetworkPolicy(key policy.Key) *networkingv1.NetworkPolicy {
	np := &networkingv1.NetworkPolicy{}
	if s.cache == nil || s.cache.Get(context.Background(), key, np) != nil {
		return nil
	}
	return np
}

// ClusterNetworkPolicy is a ClusterNetworkPolicy that was fed, with its specification, which is unpacked for
// each call; nil: there is none. It may be called from any goroutine.
func (s *Source) ClusterNetworkPolicy(name string) *clusterv1beta1.ClusterNetworkPolicy {
	if s.cluster == nil {
		return nil
	}
	return s.cluster.whole(name)
}

// feed reads a cache and feeds what it has read, or nothing if that fails. Then it notes what was
// fed, in the same step: a note that comes late must not be taken for what was fed since. note gets what Feed
// has returned.
func (s *Source) feed(read func() ([]policy.Change, error), note func(fed uint64)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	changes, err := read()
	if err != nil {
		return err
	}
	fed := s.enforcer.Feed(changes...)
	if note != nil {
		note(fed)
	}
	return nil
}

// reconcile is what the reconcilers have in common: the object as the cache has it is fed as the
// change that set makes of it; if it is gone, as that of gone. Then note is called, unless it is nil.
// All are called under mu.
func reconcile[T client.Object](ctx context.Context, s *Source, req ctrl.Request, object T, set func(T) policy.Change, gone func() policy.Change, note func(fed uint64)) (ctrl.Result, error) {
	err := s.feed(func() ([]policy.Change, error) {
		switch err := s.cache.Get(ctx, req.NamespacedName, object); {
		case apierrors.IsNotFound(err):
			return []policy.Change{gone()}, nil
		case err != nil:
			return nil, fmt.Errorf("reading %T %s: %w", object, req.NamespacedName, err)
		}
		return []policy.Change{set(object)}, nil
	}, note)
	return ctrl.Result{}, err
}

// firstLoad feeds all that the caches hold once they have synced, and says that this is all there
// was at the start. A commit of half a cluster would cut allowed traffic, or let denied traffic
// through. ClusterNetworkPolicies have been fed when it begins, if the API server has that kind.
type firstLoad struct {
	*Source
	informers cache.Cache
}

// Start implements manager.Runnable.
func (l *firstLoad) Start(ctx context.Context) error {
	var (
		nodes      corev1.NodeList
		namespaces corev1.NamespaceList
		policies   networkingv1.NetworkPolicyList
	)
	for _, object := range []client.Object{&corev1.Node{}, &corev1.Namespace{}, &corev1.Pod{}, &networkingv1.NetworkPolicy{}} {
		if _, err := l.informers.GetInformer(ctx, object); err != nil { // returns when it has synced
			return fmt.Errorf("watching %T: %w", object, err)
		}
	}
	if err := l.cluster.awaitKnown(ctx); err != nil {
		return err
	}
	l.loading.Store(true)
	return l.feed(func() (changes []policy.Change, err error) {
		for _, list := range []client.ObjectList{&nodes, &namespaces, &policies} {
			if err := l.informers.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
				return nil, fmt.Errorf("listing %T: %w", list, err)
			}
		}
		for i := range nodes.Items {
			changes = append(changes, l.nodes.Set(&nodes.Items[i]))
		}
		for i := range namespaces.Items {
			changes = append(changes, policy.ChangeOf(&namespaces.Items[i]))
		}
		for _, object := range l.pods.List() {
			if pod := object.(*cachedPod); pod.isSeen() {
				changes = append(changes, pod.change())
			}
		}
		for i := range policies.Items {
			changes = append(changes, policy.ChangeOf(&policies.Items[i]))
		}
		return append(changes, policy.Synced()), nil
	}, func(uint64) {
		for i := range namespaces.Items {
			l.fed.set(namespaceScope(namespaces.Items[i].Name), &namespaces.Items[i])
		}
		for i := range policies.Items {
			l.fed.set(policiesOf(policies.Items[i].Namespace), &policies.Items[i])
		}
	})
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: every node's
// agent works.
func (*firstLoad) NeedLeaderElection() bool { return false }
