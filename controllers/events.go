package controllers

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxEventMessage is the API server's limit (NoteLengthLimit in
// k8s.io/kubernetes/pkg/apis/core/validation/events.go).
const maxEventMessage = 1024

// warning is an Event about an object. Its name is made from the identity of
// what it says: the same thing said twice, or by two nodes, is one Event.
func warning(about corev1.ObjectReference, node, reason, identity, message string) *corev1.Event {
	if len(message) > maxEventMessage {
		message = strings.ToValidUTF8(message[:maxEventMessage-3], "") + "..."
	}
	namespace := about.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault // where Events about cluster-wide objects must be
	}
	now := metav1.NewTime(time.Now())
	sum := sha256.Sum256([]byte(identity))
	name := about.Name
	const suffix = 1 + 16
	if len(name) > 253-suffix {
		name = strings.TrimRight(name[:253-suffix], "-.")
	}
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s.%x", name, sum[:8])},
		InvolvedObject: about,
		Type:           corev1.EventTypeWarning, Reason: reason, Message: message,
		Source:              corev1.EventSource{Component: "podfence", Host: node},
		ReportingController: "podfence", ReportingInstance: node,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
}
