package attachments

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
)

type pendingPod struct {
	policy.Key
	uid types.UID
}

// pending says since when a pod's adds have failed.
type pending struct {
	since, last time.Time
	event       *corev1.Event // which says so; nil: there is none yet
	why         error         // the last add has failed
}

const (
	// pendingLong is after how long of failing a pod's Event is created. Until then, kubelet's own
	// retries may well succeed.
	pendingLong = 30 * time.Second
	// pendingForgotten is after how long without an add nobody is thought to wait any more.
	pendingForgotten = 10 * time.Minute
)

// report creates an Event on a pod that could not be connected for long.
func (s *Server) report(attachment policy.Attachment, failed error) {
	key := pendingPod{attachment.Pod, attachment.UID}
	now := time.Now()
	s.mu.Lock()
	for pod, p := range s.pending {
		if pod == key && failed == nil || now.Sub(p.last) > pendingForgotten {
			if p.event != nil {
				s.Report.Events.Drop(p.event)
			}
			delete(s.pending, pod)
		}
	}
	if failed == nil {
		s.mu.Unlock()
		return
	}
	p := s.pending[key]
	if p == nil {
		p = &pending{since: now}
		s.pending[key] = p
	}
	p.last, p.why = now, failed
	overdue := p.event == nil && now.Sub(p.since) >= pendingLong
	if overdue {
		pod := corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: key.Namespace, Name: key.Name, UID: key.uid}
		p.event = s.Report.Events.Warning(pod, report.ReasonNotFenced, string(key.uid)+" "+p.since.String(), failed.Error())
		s.Report.Events.Create(p.event)
	}
	s.mu.Unlock()
	if overdue {
		s.Log.Error(failed, "A pod is not connected, as its rules are not in the kernel", "pod", key.String(), "since", p.since)
	}
}

// Waiting is a pod whose ADD has failed, and will be tried again.
type Waiting struct {
	Pod   policy.Key
	Since time.Time
	// Why is why the last one has failed.
	Why error
}

// Waiting are those pods, in no order. Those that nobody has asked for any more for a while are left out.
func (s *Server) Waiting() (all []Waiting) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for pod, p := range s.pending {
		if now.Sub(p.last) <= pendingForgotten {
			all = append(all, Waiting{Pod: pod.Key, Since: p.since, Why: p.why})
		}
	}
	return all
}
