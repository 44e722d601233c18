package controllers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
)

// cacheOptions have the cache keep of each object only what podfence reads. Of pods, which are the
// most numerous, that is a cachedPod. Policies are read as the cache has them, without a copy: to
// copy twenty thousand blocks takes milliseconds, in which nothing could be committed.
func cacheOptions(pods *podSizes, policies *policySizes) cache.Options {
	return cache.Options{ByObject: map[client.Object]cache.ByObject{
		&corev1.Pod{}:                 {Transform: pods.cache},
		&corev1.Namespace{}:           {Transform: strip(stripNamespace)},
		&corev1.Node{}:                {Transform: strip(stripNode)},
		&networkingv1.NetworkPolicy{}: {Transform: strip(policies.keep), UnsafeDisableDeepCopy: new(true)},
		&v1alpha1.PodAddresses{}:      {Transform: strip(stripPodAddresses), UnsafeDisableDeepCopy: new(true)},
	}}
}

// cachedPod is what the cache keeps of a pod: what identifies it, and what policy
// sees of it, in the very form that the model keeps too. It takes a tenth of the
// Pod's memory. The cache's Get and List know nothing of it: podStore does.
type cachedPod struct {
	metav1.ObjectMeta
	// seen is nil if policy does not see the pod. It never changes.
	seen *policy.Pod
}

// cache is the cache's transform of pods.
func (s *podSizes) cache(object any) (any, error) {
	p, is := object.(*corev1.Pod)
	if !is { // a tombstone, or a pod that was transformed already
		return object, nil
	}
	cached := &cachedPod{ObjectMeta: metav1.ObjectMeta{
		Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
	}}
	if pod, seen := s.keep(p); seen {
		cached.seen = pod
	}
	return cached, nil
}

// GetObjectKind and DeepCopyObject make a cachedPod an object (runtime.Object).
func (*cachedPod) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject copies what may change.
func (p *cachedPod) DeepCopyObject() runtime.Object {
	return &cachedPod{ObjectMeta: *p.ObjectMeta.DeepCopy(), seen: p.seen}
}

// isSeen reports whether policy sees the pod.
func (p *cachedPod) isSeen() bool { return p.seen != nil }

// change is the pod as it is now.
func (p *cachedPod) change() policy.Change {
	if p.seen == nil {
		return policy.DeletePod(policy.Key{Namespace: p.Namespace, Name: p.Name})
	}
	return policy.SetPod(p.seen)
}

// podStore reads the pods of a cache.
type podStore struct{ toolscache.Store }

// podsOf returns the pods of a cache that keeps cachedPods.
func podsOf(ctx context.Context, c cache.Cache) (podStore, error) {
	informer, err := c.GetInformer(ctx, &corev1.Pod{}, cache.BlockUntilSynced(false))
	if err != nil {
		return podStore{}, fmt.Errorf("watching pods: %w", err)
	}
	shared, is := informer.(toolscache.SharedInformer)
	if !is {
		return podStore{}, fmt.Errorf("watching pods: the cache's informer is a %T, which has no store", informer)
	}
	return podStore{shared.GetStore()}, nil
}

// pod returns what policy sees of a pod; nil: it is gone, or policy does not see it.
func (s podStore) pod(key types.NamespacedName) (*policy.Pod, error) {
	object, exists, err := s.GetByKey(key.String())
	if err != nil || !exists {
		return nil, err
	}
	return object.(*cachedPod).seen, nil
}

// allSeen are all pods that policy sees, in no order.
func (s podStore) allSeen() (all []*policy.Pod) {
	for _, object := range s.List() {
		if pod := object.(*cachedPod); pod.isSeen() {
			all = append(all, pod.seen)
		}
	}
	return all
}

// strip makes a transform of a function; what is not a T (a tombstone of a
// missed deletion) passes as it is.
func strip[T any](f func(T) T) func(any) (any, error) {
	return func(object any) (any, error) {
		if o, is := object.(T); is {
			return f(o), nil
		}
		return object, nil
	}
}

// stripMeta keeps what identifies and selects an object.
func stripMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, Labels: m.Labels,
		ResourceVersion: m.ResourceVersion, Generation: m.Generation,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
	}
}

// stripPolicyMeta keeps, besides, whether a policy asks for metrics, whether it is staged, and when somebody has changed it.
func stripPolicyMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	kept := stripMeta(m)
	kept.Annotations = annotationsOf(m, false)
	kept.ManagedFields = report.ChangeTime(&m)
	return kept
}

// stripNamespace keeps two annotations: those by which a namespace asks for the drop log, and stages its policies.
func stripNamespace(ns *corev1.Namespace) *corev1.Namespace {
	kept := &corev1.Namespace{ObjectMeta: stripMeta(ns.ObjectMeta)}
	kept.Annotations = enforcementOf(ns.ObjectMeta)
	if value, has := ns.Annotations[flows.DropLogAnnotation]; has {
		if kept.Annotations == nil {
			kept.Annotations = map[string]string{}
		}
		kept.Annotations[flows.DropLogAnnotation] = value
	}
	return kept
}

func stripNode(n *corev1.Node) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: stripMeta(n.ObjectMeta),
		Spec:       corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR, PodCIDRs: n.Spec.PodCIDRs},
		Status:     corev1.NodeStatus{Addresses: n.Status.Addresses},
	}
}

func stripPodAddresses(o *v1alpha1.PodAddresses) *v1alpha1.PodAddresses {
	return &v1alpha1.PodAddresses{ObjectMeta: stripMeta(o.ObjectMeta), Pods: o.Pods}
}

func stripPolicy(np *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: stripPolicyMeta(np.ObjectMeta), Spec: np.Spec}
}

func stripClusterPolicy(cnp *clusterv1beta1.ClusterNetworkPolicy) *clusterv1beta1.ClusterNetworkPolicy {
	return &clusterv1beta1.ClusterNetworkPolicy{TypeMeta: cnp.TypeMeta, ObjectMeta: stripPolicyMeta(cnp.ObjectMeta), Spec: cnp.Spec}
}
