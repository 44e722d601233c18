package controllers

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/policy"
)

// ReasonNotServed is the reason of the Warning Event on a pod that asks for something
// that this node's network does not do, such as a hostPort without the portmap plugin.
const ReasonNotServed = "NotServed"

// reportUnserved says on a pod that was connected what else it asked for in vain: it runs,
// and nothing else would tell. It returns at once: the pod's ADD waits for its answer.
func (a *Attachments) reportUnserved(attachment policy.Attachment, unserved []string) {
	if len(unserved) == 0 {
		return
	}
	message := strings.Join(unserved, "; ")
	if a.events == nil {
		a.log.Info("A pod asks for what this node's network does not do", "pod", attachment.Pod.String(), "what", message)
		return
	}
	pod := corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: attachment.Pod.Namespace, Name: attachment.Pod.Name, UID: attachment.UID,
	}
	// The same of a later sandbox of the pod is the same Event.
	event := warning(pod, a.node, ReasonNotServed, string(attachment.UID)+" "+message, message)
	a.events.create(event)
}
