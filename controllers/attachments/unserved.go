package attachments

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
)

// reportUnserved creates an Event on a pod that was connected but did not get all that it asked
// for: the pod runs, and nothing else would tell. It returns at once, because the pod's ADD waits
// for its answer.
func (s *Server) reportUnserved(attachment policy.Attachment, unserved []string) {
	if len(unserved) == 0 {
		return
	}
	message := strings.Join(unserved, "; ")
	if s.Report.Events == nil {
		s.Log.Info("A pod asks for what this node's network does not do", "pod", attachment.Pod.String(), "what", message)
		return
	}
	pod := corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: attachment.Pod.Namespace, Name: attachment.Pod.Name, UID: attachment.UID,
	}
	// If a later sandbox of the pod does not get the same, that is the same Event.
	event := s.Report.Events.Warning(pod, report.ReasonNotServed, string(attachment.UID)+" "+message, message)
	s.Report.Events.Create(event)
}
