package explain

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ownersIn says which workload is the controller of which, by metadata.ownerReferences: a Deployment of a
// ReplicaSet, a CronJob of a Job. What is not in the cluster owns nothing.
func ownersIn(c *Cluster) map[Object]Object {
	owners := map[Object]Object{}
	for _, w := range c.Workloads {
		self := Object{Kind: w.Kind, Namespace: w.Namespace, Name: w.Name}
		owners[self] = Object{}
		if owner, has := controllerOf(w); has {
			owners[self] = owner
		}
	}
	return owners
}

// controllerOf is the workload that controls an object.
func controllerOf(o metav1.Object) (Object, bool) {
	ref := metav1.GetControllerOfNoCopy(o)
	if ref == nil {
		return Object{}, false
	}
	return Object{Kind: ref.Kind, Namespace: o.GetNamespace(), Name: ref.Name}, true
}

// Owners are what a pod belongs to, from what controls it to the topmost owner that is known.
func (x *Explainer) Owners(pod *corev1.Pod) (owners []Object) {
	owner, has := controllerOf(pod)
	for has && len(owners) < 8 { // owners of owners could go round in a circle
		owners = append(owners, owner)
		owner = x.owners[owner]
		has = owner != Object{}
	}
	return owners
}

// workload is the topmost owner of a pod; nil: the pod stands alone.
func (x *Explainer) workload(pod *corev1.Pod) *Object {
	owners := x.Owners(pod)
	if len(owners) == 0 || owners[len(owners)-1].Kind == "Node" { // a static pod's mirror is controlled by its Node
		return nil
	}
	return &owners[len(owners)-1]
}

// PartyOf is the party that a pod belongs to, whether or not it has an address.
func (x *Explainer) PartyOf(pod *corev1.Pod) Party {
	return partyOf(end{End: End{Kind: KindPod, Namespace: pod.Namespace, Name: pod.Name, Workload: x.workload(pod)}})
}
