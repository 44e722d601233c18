package explain

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/policy"
)

// Apply returns a cluster as it is once objects were applied to it and others deleted from it, as by
// kubectl apply and kubectl delete. An object of the same kind, namespace and name is replaced; of a
// Namespace, labels that others have set stay.
//
// A workload whose pods stand in (v1alpha1.StandInAnnotation) among the changed objects gives its pods in the
// cluster the labels and ports of its template, with the labels that controllers add. They are those of
// new pods: labels that only the old ones have, by whomever they were added, are gone. A workload that has
// no pods in the cluster, but such as have ended, gets the pods that stand in, unless it is a Job, which begins
// once. Deleting a workload deletes its pods, and deleting a
// Namespace all that is in it.
//
// Neither cluster is changed. The error names objects to delete that the cluster does not have.
func Apply(old, changed *Cluster, deleted ...Object) (*Cluster, error) {
	c := *old
	errs := make([]error, len(deleted))
	for i, o := range deleted {
		errs[i] = c.remove(o)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	c.Nodes = replaced(c.Nodes, changed.Nodes)
	c.Namespaces = c.appliedNamespaces(changed.Namespaces)
	c.Policies = replaced(c.Policies, keepingStaged(c.Policies, changed.Policies))
	c.ClusterPolicies = replaced(c.ClusterPolicies, keepingStaged(c.ClusterPolicies, changed.ClusterPolicies))
	c.Services = replaced(c.Services, changed.Services)
	c.EndpointSlices = replaced(c.EndpointSlices, changed.EndpointSlices)
	c.Workloads = c.replacedWorkloads(changed.Workloads)
	c.Pods = c.appliedPods(changed)
	return &c, nil
}

// replaced are objects of one kind with others in the place of those of the same name, or behind them.
func replaced[T metav1.Object](old, changed []T) []T {
	out := slices.Clone(old)
	at := map[policy.Key]int{}
	for i, o := range out {
		at[keyOf(o)] = i
	}
	for _, o := range changed {
		if i, has := at[keyOf(o)]; has {
			out[i] = o
			continue
		}
		at[keyOf(o)] = len(out)
		out = append(out, o)
	}
	return out
}

// keepingStaged are the changed objects, of which those stay staged that have been staged by other means than kubectl
// apply: it leaves an annotation that the file does not have as it is, unless the last file that was applied had it.
func keepingStaged[T interface {
	metav1.Object
	DeepCopy() T
}](old, changed []T) []T {
	out := slices.Clone(changed)
	for i, o := range out {
		at := slices.IndexFunc(old, func(was T) bool { return keyOf(was) == keyOf(o) })
		if at < 0 {
			continue
		}
		value, has := old[at].GetAnnotations()[policy.EnforcementAnnotation]
		_, given := o.GetAnnotations()[policy.EnforcementAnnotation]
		if _, applied := lastApplied(old[at]).Annotations[policy.EnforcementAnnotation]; !has || given || applied {
			continue
		}
		out[i] = o.DeepCopy()
		annotations := maps.Clone(o.GetAnnotations())
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[policy.EnforcementAnnotation] = value
		out[i].SetAnnotations(annotations)
	}
	return out
}

func keyOf(o metav1.Object) policy.Key {
	return policy.Key{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// appliedNamespaces are Namespaces after others were applied. As kubectl apply, it leaves a label that the file
// does not have as it is, unless the last file that was applied had it; and API servers add the label with
// the name.
func (c *Cluster) appliedNamespaces(changed []*corev1.Namespace) []*corev1.Namespace {
	changed = keepingStaged(c.Namespaces, changed)
	out := make([]*corev1.Namespace, len(changed))
	for i, ns := range changed {
		out[i] = ns.DeepCopy()
		out[i].Labels = withLabels(ns.Labels, map[string]string{corev1.LabelMetadataName: ns.Name})
		at := slices.IndexFunc(c.Namespaces, func(old *corev1.Namespace) bool { return old.Name == ns.Name })
		if at < 0 {
			continue
		}
		old := c.Namespaces[at]
		for key := range lastApplied(old).Labels {
			if _, has := out[i].Labels[key]; !has {
				old = old.DeepCopy()
				delete(old.Labels, key)
			}
		}
		out[i].Labels = withLabels(old.Labels, out[i].Labels)
	}
	return replaced(c.Namespaces, out)
}

// lastApplied is the metadata that an object had in the file that kubectl applied last. It is empty if it was never
// applied: then all that it has stays.
func lastApplied(o metav1.Object) (last metav1.PartialObjectMetadata) {
	if err := json.Unmarshal([]byte(o.GetAnnotations()[corev1.LastAppliedConfigAnnotation]), &last); err != nil {
		return metav1.PartialObjectMetadata{}
	}
	return last
}

// withLabels are the labels of more, and those of labels that more does not have.
func withLabels(labels, more map[string]string) map[string]string {
	out := maps.Clone(more)
	for key, value := range labels {
		if _, has := out[key]; !has {
			out[key] = value
		}
	}
	return out
}

// replacedWorkloads is replaced for workloads, of which two of different kinds may have one name.
func (c *Cluster) replacedWorkloads(changed []*metav1.PartialObjectMetadata) []*metav1.PartialObjectMetadata {
	out := slices.DeleteFunc(slices.Clone(c.Workloads), func(o *metav1.PartialObjectMetadata) bool {
		return slices.ContainsFunc(changed, func(n *metav1.PartialObjectMetadata) bool { return n.Kind == o.Kind && keyOf(n) == keyOf(o) })
	})
	return append(out, changed...)
}

// ControllersLabels are the keys of those labels that controllers give to pods beside those of a workload's template.
// They differ from pod to pod, or from one version of the template to the next. Nobody may change it.
var ControllersLabels = []string{
	"pod-template-hash", "controller-revision-hash", "pod-template-generation", "statefulset.kubernetes.io/pod-name",
	"apps.kubernetes.io/pod-index", "job-name", "controller-uid", "batch.kubernetes.io/job-name", "batch.kubernetes.io/controller-uid",
	"batch.kubernetes.io/job-completion-index",
}

// appliedPods are the pods after a change.
func (c *Cluster) appliedPods(changed *Cluster) []*corev1.Pod {
	x := &Explainer{cluster: c, owners: ownersIn(c)}
	pods := slices.Clone(c.Pods)
	of := map[Object][]int{}   // the places of workloads' pods
	begun := map[Object]bool{} // Jobs of which pods have ended
	at := map[policy.Key]int{}
	for i, pod := range pods {
		at[keyOf(pod)] = i
		if ended(pod) {
			job, _ := controllerOf(pod)
			begun[job] = job.Kind == "Job"
			continue
		}
		for _, w := range x.Owners(pod) {
			of[w] = append(of[w], i)
		}
	}
	taken := map[netip.Addr]bool{}
	for _, pod := range pods {
		for _, ip := range pod.Status.PodIPs {
			if addr, err := netip.ParseAddr(ip.IP); err == nil {
				taken[addr] = true
			}
		}
	}
	for _, pod := range changed.Pods {
		standIn := standsIn(pod)
		workload, owned := controllerOf(pod)
		i, has := at[keyOf(pod)]
		if has && standIn && owned { // a pod of another workload may have its name
			is, _ := controllerOf(pods[i])
			has = is == workload && !ended(pods[i])
		}
		switch {
		case standIn && owned && len(of[workload]) > 0:
			for _, i := range of[workload] {
				pods[i] = likeTemplate(pods[i], pod)
			}
		case has:
			pods[i] = likeTemplate(pods[i], pod)
		case standIn && begun[workload]: // a Job that is applied again begins nothing
		case standIn:
			next := withFreeAddresses(pod, taken)
			for _, has := at[keyOf(next)]; has; _, has = at[keyOf(next)] {
				next.Name += "-next"
			}
			at[keyOf(next)] = len(pods)
			pods = append(pods, next)
		default:
			pods = append(pods, pod)
		}
	}
	return pods
}

// likeTemplate is a pod with the labels and ports of another, and the labels that controllers add.
func likeTemplate(pod, template *corev1.Pod) *corev1.Pod {
	out := pod.DeepCopy()
	out.Labels = maps.Clone(template.Labels)
	for _, key := range ControllersLabels {
		if value, has := pod.Labels[key]; has {
			out.Labels = withLabels(out.Labels, map[string]string{key: value})
		}
	}
	out.Spec.Containers, out.Spec.InitContainers, out.Spec.HostNetwork = template.Spec.Containers, template.Spec.InitContainers, template.Spec.HostNetwork
	return out
}

// withFreeAddresses is a pod that stands in, with addresses that no other pod has.
func withFreeAddresses(pod *corev1.Pod, taken map[netip.Addr]bool) *corev1.Pod {
	out := pod.DeepCopy()
	for i, ip := range out.Status.PodIPs {
		addr, err := netip.ParseAddr(ip.IP)
		for err == nil && taken[addr] && addr.Next().IsValid() {
			addr = addr.Next()
		}
		if err == nil {
			taken[addr] = true
			out.Status.PodIPs[i].IP = addr.String()
		}
	}
	if len(out.Status.PodIPs) > 0 {
		out.Status.PodIP = out.Status.PodIPs[0].IP
	}
	return out
}

// remove deletes an object, and what goes with it. The cluster's lists are replaced, not changed.
func (c *Cluster) remove(o Object) error {
	gone := false
	is := func(kind string) func(metav1.Object) bool {
		return func(other metav1.Object) bool {
			found := o.Kind == kind && other.GetNamespace() == o.Namespace && other.GetName() == o.Name
			gone = gone || found
			return found || o.Kind == string(KindNamespace) && other.GetNamespace() == o.Name
		}
	}
	x := &Explainer{cluster: c, owners: ownersIn(c)}
	isPod := is("Pod")
	c.Pods = slices.DeleteFunc(slices.Clone(c.Pods), func(pod *corev1.Pod) bool {
		owned := slices.Contains(x.Owners(pod), o)
		gone = gone || owned
		return isPod(pod) || owned
	})
	c.Namespaces = slices.DeleteFunc(slices.Clone(c.Namespaces), func(ns *corev1.Namespace) bool { return is("Namespace")(ns) })
	c.Policies = slices.DeleteFunc(slices.Clone(c.Policies), func(np *networkingv1.NetworkPolicy) bool { return is("NetworkPolicy")(np) })
	c.ClusterPolicies = slices.DeleteFunc(slices.Clone(c.ClusterPolicies), func(p *clusterv1beta1.ClusterNetworkPolicy) bool { return is("ClusterNetworkPolicy")(p) })
	c.Services = slices.DeleteFunc(slices.Clone(c.Services), func(s *corev1.Service) bool { return is("Service")(s) })
	c.EndpointSlices = slices.DeleteFunc(slices.Clone(c.EndpointSlices), func(s *discoveryv1.EndpointSlice) bool { return is("EndpointSlice")(s) })
	c.Workloads = slices.DeleteFunc(slices.Clone(c.Workloads), func(w *metav1.PartialObjectMetadata) bool { return is(w.Kind)(w) })
	if !gone {
		name := o.Name
		if o.Namespace != "" {
			name = o.Namespace + "/" + o.Name
		}
		return fmt.Errorf("%w to delete", unknown(Kind(o.Kind), name))
	}
	return nil
}
