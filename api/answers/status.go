package answers

import (
	"time"

	"github.com/podfence/podfence/api/build"
)

// Status is how an agent and its node are, at the moment of Time. What is counted is of this node, but
// for Policies.Total and the refused and unreadable policies, which are of the whole cluster.
type Status struct {
	TypeMeta `json:",inline"`
	// Node is the name of the Node whose pods the agent fences.
	Node string `json:"node"`
	// AgentVersion is the version of the program, and Build what it was built of; nil: the agent is of a version
	// that does not say so.
	AgentVersion string      `json:"agentVersion"`
	Build        *build.Info `json:"build,omitempty"`
	// Time is when the answer was made, Started when the agent was; UptimeSeconds is between them.
	Time          time.Time `json:"time"`
	Started       time.Time `json:"started"`
	UptimeSeconds float64   `json:"uptimeSeconds"`
	// Source is where objects come from: "api" or "manifests".
	Source string `json:"source"`
	// Options are the choices of this agent that change verdicts.
	Options Options `json:"options"`
	// Ready is what /readyz says: no condition is there. Conditions are why it is not.
	Ready      bool        `json:"ready"`
	Conditions []Condition `json:"conditions,omitempty"`
	// OwnsTables: the kernel lets nobody but the agent change its tables. Kernels before Linux 6.9
	// cannot do that; there, the agent repairs what others change.
	OwnsTables bool `json:"ownsTables"`
	// LastCommit is the last transaction that the kernel has carried out. It is nil if there was none.
	LastCommit *Commit `json:"lastCommit,omitempty"`
	// Pods counts the node's pods, and Policies the policies.
	Pods     Pods     `json:"pods"`
	Policies Policies `json:"policies"`
	// Repairs are about what others have changed of the tables since the agent started.
	Repairs Repairs `json:"repairs"`
	// Waiting are the pods whose ADD has failed and is tried again, the longest waiting first; at
	// most MaxListed. Pods.Waiting counts all.
	Waiting []WaitingPod `json:"waiting,omitempty"`
}

// AnsweredBy is the name of the node whose agent has answered.
func (s *Status) AnsweredBy() string { return s.Node }

// What a list of a Status names at most: pods or policies, and problems of one policy. The counts beside it
// count all.
const (
	MaxListed   = 100
	MaxOfPolicy = 5
)

// Options are the choices of an agent that change what becomes of packets. Whoever explains a verdict
// of this node must make the same ones.
type Options struct {
	// CNI is how the pods are connected: "bridge", "chained" or "none" (--cni). Routing is how packets
	// reach other nodes where that is "bridge": "auto", "host-gw" or "vxlan" (--routing); else it is empty.
	CNI     string `json:"cni"`
	Routing string `json:"routing,omitempty"`
	// AllowToNode: pods may send to their own node, whatever their egress policies say
	// (--pod-to-node allow).
	AllowToNode bool `json:"allowToNode"`
	// Reject: denied packets are answered with an ICMP error, and else dropped silently (--deny).
	Reject bool `json:"reject"`
	// RevokedMark is the bit of the conntrack mark that cuts established flows; 0: none are cut.
	RevokedMark uint32 `json:"revokedMark"`
	// MaxConnectionsPerPod is the bound on a pod's connections; 0: there is none.
	MaxConnectionsPerPod uint32 `json:"maxConnectionsPerPod,omitempty"`
	// SourceCheck: packets with pods' sources from elsewhere are dropped (--source-check).
	SourceCheck bool `json:"sourceCheck"`
	// Guard: a table of family bridge lets pods send with their own addresses only.
	Guard bool `json:"guard"`
}

// Condition is one way in which the node is not as podfence promises. OPERATIONS.md says of each what
// to do.
type Condition struct {
	// Name is the condition's, such as CommitFailed; Message says why it is there.
	Name    string `json:"name"`
	Message string `json:"message"`
}

// Commit is a transaction.
type Commit struct {
	// Time is when the kernel had carried it out. DurationSeconds is how long it took to work it out
	// and to carry it out, and Operations how many changes it had.
	Time            time.Time `json:"time"`
	DurationSeconds float64   `json:"durationSeconds"`
	Operations      int       `json:"operations"`
}

// Pods counts the node's pods.
type Pods struct {
	// Fenced are those that have an address here; Isolated those of them that a policy selects.
	Fenced   int `json:"fenced"`
	Isolated int `json:"isolated"`
	// Attached are those that the CNI plugin has told of; 0 with --cni none.
	Attached int `json:"attached"`
	// Waiting are those whose ADD has failed and is tried again.
	Waiting int `json:"waiting"`
	// Staged are those that a staged policy is about, once the kernel works out what it would deny.
	Staged int `json:"staged,omitempty"`
}

// Policies counts policies of both kinds, NetworkPolicies and ClusterNetworkPolicies.
type Policies struct {
	// Total are those of the cluster that the agent knows, and Active those that select a pod of this
	// node.
	Total  int `json:"total"`
	Active int `json:"active"`
	// Quarantined are those that allow nothing as the kernel refuses their rules, OverBudget those
	// that allow nothing as their namespace takes too much of the node.
	Quarantined int `json:"quarantined"`
	OverBudget  int `json:"overBudget"`
	// WithProblems is how many have parts that allow nothing, because they cannot be read or are
	// quarantined. Problems says which parts, in order of the policies' names, of the first MaxListed
	// policies.
	WithProblems int `json:"withProblems"`
	// Unreadable is how many have parts that cannot be read.
	Unreadable int             `json:"unreadable"`
	Problems   []PolicyProblem `json:"problems,omitempty"`
	// Staged is how many of the cluster are staged: nothing of them is in force.
	Staged int `json:"staged,omitempty"`
}

// PolicyProblem is a part of a policy that allows nothing.
type PolicyProblem struct {
	// Kind is NetworkPolicy or ClusterNetworkPolicy; Namespace is empty for the latter.
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Field is the part, as in "spec.ingress[0].ports[1].port", and Reason why it allows nothing.
	Field  string `json:"field"`
	Reason string `json:"reason"`
	// Refused: the policy as a whole is quarantined, as the kernel refuses its rules or its namespace takes too
	// much of the node. Else this part of it cannot be read.
	Refused bool `json:"refused,omitempty"`
	// Staged: nothing of the policy is in force.
	Staged bool `json:"staged,omitempty"`
	// More is how many problems of this kind the policy has besides those that are listed, of which this is
	// the last.
	More int `json:"more,omitempty"`
}

// Repairs are about what others have changed of the tables.
type Repairs struct {
	// Count is how often the tables were replaced for that since the agent started, and Last when that
	// was last; nil: never.
	Count int        `json:"count"`
	Last  *time.Time `json:"last,omitempty"`
}

// WaitingPod is a pod that could not be connected yet.
type WaitingPod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Since is when its ADD failed first, and Reason why it failed last.
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"`
}
