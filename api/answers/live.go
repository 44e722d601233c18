package answers

import (
	"encoding/json"
	"net/netip"
	"time"
)

// LiveQuestion asks which connections pass now and would be cut if some objects were others.
type LiveQuestion struct {
	// Changed are objects as the API has them (apiVersion, kind, metadata, spec) and as they would be: NetworkPolicies,
	// ClusterNetworkPolicies, Namespaces, and Pods, of which only labels and named ports count.
	Changed []json.RawMessage `json:"changed,omitempty"`
	// Removed are policies and Namespaces that would be gone.
	Removed []LiveObject `json:"removed,omitempty"`
	// Seconds is for how long connections that begin are judged as well; 0: only those that are open now. It is
	// at most MaxLiveSeconds.
	Seconds int `json:"seconds,omitempty"`
}

// LiveObject names an object.
type LiveObject struct {
	// Kind is NetworkPolicy, ClusterNetworkPolicy or Namespace.
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// LiveCuts are the connections that pass and would be cut. They are answered as lines of JSON: each is all that is
// known by then, so that only the last line counts. Empty lines keep a connection open over which nothing else
// is sent.
type LiveCuts struct {
	TypeMeta `json:",inline"`
	// Node is the name of the node whose connections these are.
	Node string `json:"node"`
	// Open is how many connections of the node were open at the beginning: entries of connection tracking.
	Open int `json:"open"`
	// Cuts are what would be cut, at most MaxCuts, those with the most flows first.
	Cuts []Cut `json:"cuts"`
	// LeftOut is how many flows would be cut besides that are in none of Cuts. AtLeast: as there were very many
	// flows, some that have begun later may not be counted.
	LeftOut int  `json:"leftOut,omitempty"`
	AtLeast bool `json:"atLeast,omitempty"`
	// Counts: the kernel counts the bytes of connections that begin (net.netfilter.nf_conntrack_acct).
	Counts bool `json:"counts,omitempty"`
	// Spares: the agent cuts no established connections (--revoked-mark 0), so that only new ones would be denied.
	Spares bool `json:"spares,omitempty"`
	// Done: it was looked for as long as was asked. Message says why not.
	Done    bool   `json:"done,omitempty"`
	Message string `json:"message,omitempty"`
}

// AnsweredBy is the name of the node whose agent has answered.
func (l *LiveCuts) AnsweredBy() string { return l.Node }

const (
	// MaxCuts is how many Cuts there are at most.
	MaxCuts = 500
	// MaxLiveSeconds is for how long connections that begin are judged at most.
	MaxLiveSeconds = 3600
	// MaxLiveQuestion is how many bytes a LiveQuestion may have.
	MaxLiveQuestion = 2 << 20
)

// Cut are the connections from one end to another, at one port, that would be cut in one direction and for one
// reason. A connection between two pods of one node that both ends' policies would cut is in two Cuts. So is one
// between two nodes: in one Cut of each node.
type Cut struct {
	Source      LiveEnd `json:"source"`
	Destination LiveEnd `json:"destination"`
	// Protocol is TCP, UDP, SCTP, ICMP, ICMPv6 or a number, and Port the destination port, after destination NAT, of
	// protocols that have ports.
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port,omitempty"`
	// Direction says whose policies would cut it: egress, the source's, or ingress, the destination's; empty: no
	// pod's own. Reason is one word of those that denied flows have, and Text says it in words.
	Direction string `json:"direction,omitempty"`
	Reason    string `json:"reason"`
	Text      string `json:"text"`
	// Policies are the one whose rule would cut it, or those that isolate the pod and allow nothing of this; at most
	// MaxCutPolicies.
	Policies []CutPolicy `json:"policies,omitempty"`
	// Flows is how many connections these are, and CountedFlows of how many of them the kernel has counted Bytes,
	// in both directions.
	Flows        int    `json:"flows"`
	CountedFlows int    `json:"countedFlows,omitempty"`
	Bytes        uint64 `json:"bytes,omitempty"`
	// LastSeen is when the last packet of one of them has passed, by the node's clock and to the second; zero: the kernel
	// does not tell.
	LastSeen time.Time `json:"lastSeen,omitzero"`
}

// MaxCutPolicies is how many Policies a Cut has at most.
const MaxCutPolicies = 10

// LiveEnd is who is at an end of connections.
type LiveEnd struct {
	// Kind is that of a workload, such as Deployment, Pod for a pod that stands alone, Node, or Address for
	// anybody else.
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	// Name is empty for an Address.
	Name string `json:"name,omitempty"`
	// Pod is one of the workload's pods that has such a connection.
	Pod string `json:"pod,omitempty"`
	// Labels are those of that pod, as they are.
	Labels map[string]string `json:"labels,omitempty"`
	// Address is that of one of these ends.
	Address netip.Addr `json:"address"`
}

// CutPolicy is a policy that would cut connections.
type CutPolicy struct {
	// Kind is NetworkPolicy or ClusterNetworkPolicy.
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Rule is the place of the rule in the list of its direction, from 0; nil: no rule allows the
	// connections. RuleName is what the policy calls it.
	Rule     *int   `json:"rule,omitempty"`
	RuleName string `json:"ruleName,omitempty"`
}
