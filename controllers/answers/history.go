package answers

import (
	"sync"
	"time"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/controllers/enforcer"
)

// history is what a status needs of outcomes. Its methods may be called from any goroutine, and do not
// wait.
type history struct {
	mu         sync.Mutex
	lastCommit *answers.Commit
	repairs    answers.Repairs
	// quarantined and overBudget are those of the last commit.
	quarantined, overBudget int
	// rehearsed is how many pods staged policies are about.
	rehearsed int
}

func (h *history) note(outcome enforcer.Outcome, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch o := outcome.(type) {
	case enforcer.Transacted:
		if o.Err == nil {
			h.lastCommit = &answers.Commit{Time: now, DurationSeconds: o.Took.Seconds(), Operations: o.Operations}
		}
	case enforcer.Settled:
		h.quarantined, h.overBudget = o.Quarantined, o.OverBudget
	case enforcer.Rehearsed:
		h.rehearsed = o.Pods
	case enforcer.Repaired:
		h.repairs.Count++
		h.repairs.Last = &now
	}
}

// fill says it in a status.
func (h *history) fill(s *answers.Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lastCommit != nil {
		last := *h.lastCommit
		s.LastCommit = &last
	}
	s.Repairs = h.repairs
	s.Policies.Quarantined, s.Policies.OverBudget = h.quarantined, h.overBudget
	s.Pods.Staged = h.rehearsed
}
