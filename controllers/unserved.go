package controllers

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/podfence/podfence/policy"
)

// ReasonNotServed is the reason of the Warning Event on a pod that asks for something
// that this node's network does not do, such as a hostPort without the portmap plugin.
const ReasonNotServed = "NotServed"

// unservedPatience is how long creating the Event may take.
const unservedPatience = 5 * time.Second

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
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), unservedPatience)
		defer cancel()
		if err := a.events.Create(ctx, event); err != nil && !apierrors.IsAlreadyExists(err) {
			a.log.Error(err, "Cannot create the Event of a pod that asks for what this node's network does not do", "pod", attachment.Pod.String(), "what", message)
		}
	}()
}
