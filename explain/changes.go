package explain

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/policy"
)

// Changes are the policies, Namespaces and pods that are in after and not, or otherwise, in before, with no more of
// them than policies are read for; and the policies that are in before alone. Of pods they have labels and
// ports, and only of those that are in both.
func Changes(before, after *Cluster) (changed []metav1.Object, removed []Object) {
	old := byKey(before.Policies)
	for _, np := range after.Policies {
		if was := old[keyOf(np)]; was == nil || !equality.Semantic.DeepEqual(was.Spec, np.Spec) || !maps.Equal(annotated(was), annotated(np)) {
			changed = append(changed, &networkingv1.NetworkPolicy{
				TypeMeta: metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy"}, ObjectMeta: metaOf(np), Spec: np.Spec,
			})
		}
	}
	oldCluster := byKey(before.ClusterPolicies)
	for _, cnp := range after.ClusterPolicies {
		if was := oldCluster[keyOf(cnp)]; was == nil || !equality.Semantic.DeepEqual(was.Spec, cnp.Spec) || !maps.Equal(annotated(was), annotated(cnp)) {
			changed = append(changed, &clusterv1beta1.ClusterNetworkPolicy{
				TypeMeta: metav1.TypeMeta{APIVersion: clusterv1beta1.GroupVersion.String(), Kind: "ClusterNetworkPolicy"}, ObjectMeta: metaOf(cnp), Spec: cnp.Spec,
			})
		}
	}
	namespaces := byKey(before.Namespaces)
	for _, ns := range after.Namespaces {
		if was := namespaces[keyOf(ns)]; was == nil || !maps.Equal(was.Labels, ns.Labels) {
			meta := metaOf(ns)
			meta.Labels = ns.Labels
			changed = append(changed, &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: meta})
		}
	}
	pods := byKey(before.Pods)
	for _, pod := range after.Pods {
		if was := pods[keyOf(pod)]; was != nil && (!maps.Equal(was.Labels, pod.Labels) || !slices.Equal(declaredPorts(was), declaredPorts(pod))) {
			changed = append(changed, relabelled(pod))
		}
	}
	for _, np := range before.Policies {
		if !slices.ContainsFunc(after.Policies, func(o *networkingv1.NetworkPolicy) bool { return keyOf(o) == keyOf(np) }) {
			removed = append(removed, Object{"NetworkPolicy", np.Namespace, np.Name})
		}
	}
	for _, cnp := range before.ClusterPolicies {
		if !slices.ContainsFunc(after.ClusterPolicies, func(o *clusterv1beta1.ClusterNetworkPolicy) bool { return o.Name == cnp.Name }) {
			removed = append(removed, Object{"ClusterNetworkPolicy", "", cnp.Name})
		}
	}
	return changed, removed
}

// byKey are objects of one kind by their names.
func byKey[T metav1.Object](objects []T) map[policy.Key]T {
	by := make(map[policy.Key]T, len(objects))
	for _, o := range objects {
		by[keyOf(o)] = o
	}
	return by
}

// metaOf is an object's name, and what it says to podfence by annotations.
func metaOf(o metav1.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: o.GetNamespace(), Name: o.GetName(), Annotations: annotated(o)}
}

// annotated are the annotations that are podfence's.
func annotated(o metav1.Object) map[string]string {
	own := map[string]string{}
	for key, value := range o.GetAnnotations() {
		if strings.HasPrefix(key, "podfence.io/") {
			own[key] = value
		}
	}
	return own
}

// relabelled is a pod with its labels and ports alone.
func relabelled(pod *corev1.Pod) *corev1.Pod {
	out := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels}}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range containers {
			out.Spec.Containers = append(out.Spec.Containers, corev1.Container{Name: c.Name, Ports: c.Ports})
		}
	}
	return out
}
