package random

import (
	"maps"
	"math/rand"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/policy"
)

// enforcement are annotations that sometimes stage a policy, or all policies of a namespace, and that
// sometimes have a value which stages nothing.
func enforcement(r *rand.Rand) map[string]string {
	switch r.Intn(24) {
	case 0, 1, 2:
		return map[string]string{policy.EnforcementAnnotation: policy.Staged}
	case 3:
		return map[string]string{policy.EnforcementAnnotation: pick(r, []string{"", "Staged", "enforced", "audit"})}
	}
	return nil
}

// isStaged reports whether an object has the annotation that stages it.
func isStaged(o metav1.ObjectMeta) bool { return o.Annotations["podfence.io/enforcement"] == "staged" }

// restage stages what is not staged, and has in force what is.
func restage(o *metav1.ObjectMeta) {
	annotations := map[string]string{"podfence.io/enforcement": "staged"}
	if isStaged(*o) {
		annotations = nil
	}
	o.Annotations = annotations
}

// Enforced is a cluster with all policies in force.
func Enforced(s policy.Snapshot) policy.Snapshot {
	enforce := func(o *metav1.ObjectMeta) {
		o.Annotations = maps.Clone(o.Annotations)
		delete(o.Annotations, policy.EnforcementAnnotation)
	}
	s.Namespaces, s.Policies, s.ClusterPolicies = copies(s.Namespaces), copies(s.Policies), copies(s.ClusterPolicies)
	for _, ns := range s.Namespaces {
		enforce(&ns.ObjectMeta)
	}
	for _, np := range s.Policies {
		enforce(&np.ObjectMeta)
	}
	for _, cnp := range s.ClusterPolicies {
		enforce(&cnp.ObjectMeta)
	}
	return s
}

// copies are copies of what pointers point to, which share what is in them.
func copies[T any](all []*T) []*T {
	copied := make([]*T, len(all))
	for i, one := range all {
		value := *one
		copied[i] = &value
	}
	return copied
}

func stagedFeatures(s policy.Snapshot, f map[string]bool) {
	stages := func(name string) bool {
		return some(s.Namespaces, func(ns *corev1.Namespace) bool { return ns.Name == name && isStaged(ns.ObjectMeta) })
	}
	has := func(o metav1.ObjectMeta) bool { _, has := o.Annotations["podfence.io/enforcement"]; return has }
	f["staged: a policy"] = some(s.Policies, func(np *networkingv1.NetworkPolicy) bool { return isStaged(np.ObjectMeta) })
	f["staged: a policy by its namespace alone"] = some(s.Policies, func(np *networkingv1.NetworkPolicy) bool {
		return !isStaged(np.ObjectMeta) && stages(np.Namespace)
	})
	f["staged: a policy with a value that is not known"] = some(s.Policies, func(np *networkingv1.NetworkPolicy) bool {
		return has(np.ObjectMeta) && !isStaged(np.ObjectMeta)
	})
	f["staged: one of two policies of a namespace"] = some(s.Policies, func(np *networkingv1.NetworkPolicy) bool {
		return isStaged(np.ObjectMeta) && !stages(np.Namespace) &&
			some(s.Policies, func(other *networkingv1.NetworkPolicy) bool {
				return other.Namespace == np.Namespace && !isStaged(other.ObjectMeta)
			})
	})
	for _, tier := range tiers {
		f["staged: a cluster policy of the tier "+string(tier)] = some(s.ClusterPolicies, func(cnp *clusterv1beta1.ClusterNetworkPolicy) bool {
			return cnp.Spec.Tier == tier && isStaged(cnp.ObjectMeta)
		})
	}
}

// stagedChanges are what may happen between two events of one object that is staged.
var stagedChanges = map[string]func(change) bool{
	"a policy is staged, and is the same else":                 staging[*networkingv1.NetworkPolicy](true),
	"a policy is not staged any more, and is the same else":    staging[*networkingv1.NetworkPolicy](false),
	"a cluster policy is staged, and is the same else":         staging[*clusterv1beta1.ClusterNetworkPolicy](true),
	"a cluster policy is not staged any more, and is the same": staging[*clusterv1beta1.ClusterNetworkPolicy](false),
	"a namespace comes to stage its policies":                  staging[*corev1.Namespace](true),
	"a namespace stages its policies no more":                  staging[*corev1.Namespace](false),
}

// staging reports whether an object has come to be staged, or not to be staged any more, and is the same else.
func staging[T metav1.Object](becomes bool) func(change) bool {
	return func(c change) bool {
		a, b := both[T](c)
		if reflect.ValueOf(a).IsNil() {
			return false
		}
		staged := func(o T) bool { return o.GetAnnotations()["podfence.io/enforcement"] == "staged" }
		return staged(a) != becomes && staged(b) == becomes && !c.ofOneField()
	}
}
