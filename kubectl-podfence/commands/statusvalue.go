package commands

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/explain"
)

// StatusAPIVersion is the version of the JSON of a Status. Within it, fields are added, and none is removed
// or changes its meaning.
const StatusAPIVersion = "status.podfence.io/v1"

// Status is how podfence is on all nodes.
type Status struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"` // Status
	Summary    Summary      `json:"summary"`
	Nodes      []NodeStatus `json:"nodes"`
	// Problems are those of policies, each once, with the nodes whose agents have it.
	Problems []PolicyProblem `json:"problems,omitempty"`
	// Notes are what is not known, such as nodes that the user may not list.
	Notes []explain.Note `json:"notes,omitempty"`
}

// Summary counts.
type Summary struct {
	// Nodes is the sum of the four behind it.
	Nodes    int `json:"nodes"`
	Ready    int `json:"ready"`
	NotReady int `json:"notReady"`
	NoAgent  int `json:"noAgent"`
	NoAnswer int `json:"noAnswer"`
	// Versions is how many agents have which version.
	Versions map[string]int `json:"versions,omitempty"`
	Pods     int            `json:"pods"`
	Waiting  int            `json:"waiting"`
	Repairs  int            `json:"repairs"`
	// Refused and Unreadable are how many policies have a problem of that kind on the node that has most.
	Refused    int `json:"refused"`
	Unreadable int `json:"unreadable"`
	// Staged is how many policies are staged, and so not in force, by the node that knows most of them, and StagedPods
	// how many pods of all nodes they are about.
	Staged     int `json:"staged,omitempty"`
	StagedPods int `json:"stagedPods,omitempty"`
}

// NodeState is what is known of a node's agent.
type NodeState string

// The states.
const (
	Ready NodeState = "Ready"
	// NotReady: the agent says that the node is not as podfence promises.
	NotReady NodeState = "NotReady"
	// NoAgent: there is no agent that runs. What it has put into the kernel before still holds.
	NoAgent NodeState = "NoAgent"
	// NoAnswer: the agent could not be asked.
	NoAnswer NodeState = "NoAnswer"
)

// NodeStatus is how podfence is on a node.
type NodeStatus struct {
	Node string `json:"node,omitempty"`
	// Agent is the agent's pod (NAMESPACE/NAME), or the address at which it was asked.
	Agent string    `json:"agent,omitempty"`
	State NodeState `json:"state"`
	// Message says why it is not Ready.
	Message string `json:"message,omitempty"`
	// Refused and Unreadable are how many policies have such problems on this node.
	Refused    int `json:"refused"`
	Unreadable int `json:"unreadable"`
	// Answer is what the agent says; absent: it has not answered.
	Answer *answers.Status `json:"answer,omitempty"`
}

// PolicyProblem is a problem of a policy, and where.
type PolicyProblem struct {
	answers.PolicyProblem
	// Nodes are those whose agents have the problem, in order.
	Nodes []string `json:"nodes"`
}

// answered takes in what the node's agent says.
func (n *NodeStatus) answered(answer *answers.Status) {
	n.Answer, n.State = answer, Ready
	n.Node = cmp.Or(n.Node, answer.Node)
	n.Refused, n.Unreadable = answer.Policies.Quarantined+answer.Policies.OverBudget, answer.Policies.Unreadable
	if answer.Ready {
		return
	}
	n.State = NotReady
	var texts []string
	for _, condition := range answer.Conditions {
		texts = append(texts, condition.Name+": "+condition.Message)
	}
	n.Message = cmp.Or(strings.Join(texts, "; "), "it does not say why")
}

// countPolicies is how many policies have these problems.
func countPolicies(problems []answers.PolicyProblem) int {
	seen := map[string]bool{}
	for _, p := range problems {
		seen[policyOf(p)] = true
	}
	return len(seen)
}

// statusOf puts together what agents have answered. Problems are those of the policies of a namespace (empty:
// of all), and of policies that are in none.
func statusOf(asked []*askedAgent, namespace string, notes []explain.Note) *Status {
	s := &Status{APIVersion: StatusAPIVersion, Kind: "Status", Notes: notes}
	s.Summary.Versions = map[string]int{}
	byProblem := map[answers.PolicyProblem][]string{}
	for _, of := range asked {
		node := of.NodeStatus
		s.Nodes = append(s.Nodes, node)
		s.Summary.count(&node)
		if node.Answer == nil {
			continue
		}
		for _, problem := range node.Answer.Policies.Problems {
			if in := problem.Namespace; namespace == "" || in == "" || in == namespace {
				byProblem[problem] = append(byProblem[problem], cmp.Or(node.Node, node.Agent))
			}
		}
	}
	var all []answers.PolicyProblem
	for problem, nodes := range byProblem {
		slices.Sort(nodes)
		s.Problems = append(s.Problems, PolicyProblem{problem, slices.Compact(nodes)})
		all = append(all, problem)
	}
	if most := withProblems(asked); namespace == "" && countPolicies(all) < most {
		s.Notes = append(s.Notes, explain.Note{Reason: "NotListed", Message: fmt.Sprintf(
			"%d policies have problems, of which agents list no more than %d: --namespace has them list those of one namespace.", most, answers.MaxListed)})
	}
	if s.Summary.Staged > 0 {
		s.Notes = append(s.Notes, explain.Note{Reason: "Staged", Message: fmt.Sprintf(
			"%d policies of the cluster are staged, and not in force; they are about %d pods of these nodes. kubectl podfence observe --verdict would-deny shows what they would deny.", s.Summary.Staged, s.Summary.StagedPods)})
	}
	slices.SortFunc(s.Problems, func(a, b PolicyProblem) int {
		return cmp.Or(strings.Compare(policyOf(a.PolicyProblem), policyOf(b.PolicyProblem)), strings.Compare(a.Field, b.Field), strings.Compare(a.Reason, b.Reason))
	})
	return s
}

// withProblems is how many policies have problems, on the node that has most.
func withProblems(asked []*askedAgent) (most int) {
	for _, of := range asked {
		if of.Answer != nil {
			most = max(most, of.Answer.Policies.WithProblems)
		}
	}
	return most
}

// policyOf is the policy of a problem as error messages and tables name it.
func policyOf(p answers.PolicyProblem) string {
	if p.Namespace == "" {
		return p.Kind + " " + p.Name
	}
	return p.Kind + " " + p.Namespace + "/" + p.Name
}

// count counts a node.
func (s *Summary) count(n *NodeStatus) {
	s.Nodes++
	switch n.State {
	case Ready:
		s.Ready++
	case NotReady:
		s.NotReady++
	case NoAgent:
		s.NoAgent++
	case NoAnswer:
		s.NoAnswer++
	}
	if n.Answer != nil {
		s.Versions[n.Answer.AgentVersion]++
		s.Pods += n.Answer.Pods.Fenced
		s.Waiting += n.Answer.Pods.Waiting
		s.Repairs += n.Answer.Repairs.Count
		s.Staged, s.StagedPods = max(s.Staged, n.Answer.Policies.Staged), s.StagedPods+n.Answer.Pods.Staged
		s.Refused, s.Unreadable = max(s.Refused, n.Refused), max(s.Unreadable, n.Unreadable)
	}
}
