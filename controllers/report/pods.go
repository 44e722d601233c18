package report

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/policy"
)

// The reasons of Warning Events on pods.
const (
	// ReasonTooLarge: the pod's labels and ports are more than the agent keeps.
	ReasonTooLarge = "TooLarge"
	// ReasonNotFenced: the pod cannot be connected because its rules do not get into the
	// kernel.
	ReasonNotFenced = "NotFenced"
	// ReasonNotServed: the pod asks for something that this node's network does not do, such as
	// a hostPort without the portmap plugin.
	ReasonNotServed = "NotServed"
)

// TooLarge says that a pod has too many labels and ports to be kept, and why that is too many.
func (r *Reporter) TooLarge(p *corev1.Pod, why string) {
	warn(r.agent, "Pod has too many labels and ports to be kept", "pod", policy.Key{Namespace: p.Namespace, Name: p.Name}.String(), "reason", why)
	about := corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
	}
	r.Events.Create(r.Events.Warning(about, ReasonTooLarge, string(p.UID)+" "+why, why))
}
