package answers

import (
	"slices"
	"sync"
	"time"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
)

// countsFor is how long what was counted in the model is good enough. To count takes some time under
// the mutex of the model, in proportion to the cluster's policies, and no commit should wait for many who
// ask.
const countsFor = time.Second

// counted is what was counted in the model.
type counted struct {
	mu       sync.Mutex
	at       time.Time
	counts   policy.Counts
	attached int
}

// get counts, if nobody has within the last second.
func (c *counted) get(now time.Time, model Model) (policy.Counts, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() || now.Sub(c.at) >= countsFor {
		c.at, c.counts, c.attached = now, model.Counts(), len(model.Attachments())
	}
	return c.counts, c.attached
}

// status is how the agent and its node are, with the problems of the policies of a namespace, or of all if it
// is empty, and of those that are in none.
func (s *Server) status(now time.Time, namespace string) answers.Status {
	counts, attached := s.counted.get(now, s.options.Model)
	status := answers.Status{
		TypeMeta: answers.TypeMeta{APIVersion: answers.Version, Kind: "Status"},
		Node:     s.options.Node, AgentVersion: s.options.Build.Version, Build: &s.options.Build, Source: s.options.Source,
		Time: now, Started: s.started, UptimeSeconds: now.Sub(s.started).Seconds(),
		Options: s.options.Choices, OwnsTables: s.options.OwnsTables,
		Pods:     answers.Pods{Fenced: counts.Pods, Isolated: counts.Isolated, Attached: attached},
		Policies: answers.Policies{Total: counts.Policies, Active: counts.Active},
	}
	s.history.fill(&status)
	for _, reason := range s.options.Health.Reasons() {
		status.Conditions = append(status.Conditions, answers.Condition{Name: string(reason.Condition), Message: reason.Why})
	}
	status.Ready = len(status.Conditions) == 0
	first, count, unread := s.options.Problems.First(answers.MaxListed, namespace)
	status.Policies.WithProblems, status.Policies.Unreadable = count, unread
	staged := s.options.Model.StagedPolicies()
	status.Policies.Staged = len(staged)
	for _, of := range first {
		status.Policies.Problems = append(status.Policies.Problems, problemsOf(of, of.Unread, false)...)
		status.Policies.Problems = append(status.Policies.Problems, problemsOf(of, of.Refused, true)...)
	}
	for i, p := range status.Policies.Problems {
		status.Policies.Problems[i].Staged = slices.Contains(staged, policy.Key{Namespace: p.Namespace, Name: p.Name})
	}
	s.waiting(&status)
	return status
}

// problemsOf are the first problems of a policy. The last says how many there are beside them.
func problemsOf(of report.PolicyProblems, problems []policy.Problem, refused bool) (all []answers.PolicyProblem) {
	for _, problem := range problems[:min(len(problems), answers.MaxOfPolicy)] {
		all = append(all, answers.PolicyProblem{
			Kind: of.Kind, Namespace: of.Policy.Namespace, Name: of.Policy.Name, Field: problem.Field, Reason: problem.Reason, Refused: refused,
		})
	}
	if more := len(problems) - len(all); more > 0 {
		all[len(all)-1].More = more
	}
	return all
}

// waiting says which pods wait, the longest waiting first.
func (s *Server) waiting(status *answers.Status) {
	if s.options.Waiting == nil {
		return
	}
	waiting := s.options.Waiting()
	status.Pods.Waiting = len(waiting)
	slices.SortFunc(waiting, func(a, b answers.WaitingPod) int { return a.Since.Compare(b.Since) })
	status.Waiting = waiting[:min(len(waiting), answers.MaxListed)]
}
