package flows

import (
	"net/netip"
	"time"
)

// Flow is one denial, one connection that has begun or ended, or one packet about which staged policies would
// decide otherwise. A value is not changed once it was handed on, so that any number of goroutines may read it.
type Flow struct {
	// Time is when the kernel met the packet, or when connection tracking told of the connection.
	Time time.Time `json:"time"`
	// Node is the name of the node that saw it.
	Node string `json:"node"`
	// Verdict is what became of it.
	Verdict Verdict `json:"verdict"`
	// Event says what of a connection is told; it is empty for a denial.
	Event Event `json:"event,omitempty"`
	// Direction is that of the rules that decided, as seen from their subject. It is empty where no
	// rules of a pod have decided.
	Direction Direction `json:"direction,omitempty"`
	// Source is who began, and Destination is what was reached or was to be: after destination NAT, the
	// pod and not the Service.
	Source      Endpoint `json:"source"`
	Destination Endpoint `json:"destination"`
	// DestinationNames are the domain names of policies that the source, or the agent, was told have the destination's
	// address, in order, and at most MaxNames.
	DestinationNames []string `json:"destinationNames,omitempty"`
	// Asked is the destination that the source asked for, if destination NAT has led the packet
	// elsewhere.
	Asked *Asked `json:"asked,omitempty"`
	// Protocol is "TCP", "UDP", "SCTP", "ICMP", "ICMPv6", or a number.
	Protocol string `json:"protocol"`
	// ICMPType and ICMPCode are an ICMP message's.
	ICMPType *uint8 `json:"icmpType,omitempty"`
	ICMPCode *uint8 `json:"icmpCode,omitempty"`
	// TCPFlags are the flags of a denied TCP packet, by name, such as "SYN,ACK".
	TCPFlags string `json:"tcpFlags,omitempty"`
	// Reason is why a packet was denied, or would be; it is empty for what passes, or would.
	Reason Reason `json:"reason,omitempty"`
	// Text says the same in words.
	Text string `json:"text,omitempty"`
	// Policies have decided. For DefaultDeny, these are the NetworkPolicies that isolate the subject, none
	// of which allows the packet. For ByRule, and for what passes, there is one, with its rule. They are
	// empty if nothing is about the subject.
	Policies []Policy `json:"policies,omitempty"`
	// NearestMiss is the rule that would have allowed the packet but for one thing, and that thing, in
	// words; empty if there is none.
	NearestMiss string `json:"nearestMiss,omitempty"`
	// Repeats counts further packets of a denied flow that were not told one by one. A Flow with Repeats
	// is a summary: it follows the flow's first, with the same addresses and reason.
	Repeats uint64 `json:"repeats,omitempty"`
	// Packets and Bytes are what a connection that has ended has carried, in both directions.
	Packets uint64 `json:"packets,omitempty"`
	Bytes   uint64 `json:"bytes,omitempty"`
	// SampledOf says that this is one of so many flows, of which the others are not told; 0 or 1: all are.
	SampledOf uint32 `json:"sampledOf,omitempty"`
}

// MaxNames is how many DestinationNames a Flow has at most.
const MaxNames = 8

// Verdict is what became of a packet or connection.
type Verdict string

// The verdicts.
const (
	Denied  Verdict = "denied"
	Allowed Verdict = "allowed"
	// WouldDeny: it was allowed, and would be denied with the staged policies in force. WouldAllow: it was denied,
	// and the rules of that direction would allow it with them.
	WouldDeny  Verdict = "would-deny"
	WouldAllow Verdict = "would-allow"
)

// Verdicts are all of them.
var Verdicts = []Verdict{Denied, Allowed, WouldDeny, WouldAllow}

// Event is what of a connection is told.
type Event string

// The events.
const (
	Began Event = "began"
	Ended Event = "ended"
)

// Direction is that of rules.
type Direction string

// The directions.
const (
	Ingress Direction = "ingress"
	Egress  Direction = "egress"
)

// Reason is why a packet was denied.
type Reason string

// The reasons.
const (
	// DefaultDeny: NetworkPolicies isolate the subject, and none of their rules allows the packet.
	DefaultDeny Reason = "default-deny"
	// ByRule: a rule of a ClusterNetworkPolicy denies it.
	ByRule Reason = "rule"
	// UnknownPod: it is from or to a container, or an address of this node's pod ranges, of which the API
	// does not say which pod it is.
	UnknownPod Reason = "unknown-pod"
	// Invalid: connection tracking says that it belongs to no connection.
	Invalid Reason = "invalid"
	// BeginsNoConnection: connection tracking does not know its connection, and it begins none.
	BeginsNoConnection Reason = "begins-no-connection"
	// Revoked: its connection was allowed when it began, and no policy allows it any more.
	Revoked Reason = "revoked"
	// Spoofed: it is not from whom, or not to whom, its addresses say.
	Spoofed Reason = "spoofed"
	// NotANode: it came through the tunnel, or was for the tunnel, and is not from a node.
	NotANode Reason = "not-a-node"
	// TooMany: the pod has begun too many connections, or sent too many fragments or ICMP errors.
	TooMany Reason = "too-many"
	// Changed: a rule has denied it that has changed since, so that nobody can tell which.
	Changed Reason = "changed"
)

// Reasons are all of them.
var Reasons = []Reason{DefaultDeny, ByRule, UnknownPod, Invalid, BeginsNoConnection, Revoked, Spoofed, NotANode, TooMany, Changed}

// Endpoint is one end of a flow.
type Endpoint struct {
	IP netip.Addr `json:"ip"`
	// Port is that of protocols that have ports.
	Port uint16 `json:"port,omitempty"`
	// Namespace and Pod name the pod, if the address is a pod's. Labels are the pod's.
	Namespace string            `json:"namespace,omitempty"`
	Pod       string            `json:"pod,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	// Workload is what the pod belongs to, such as the Deployment; nil if it stands alone.
	Workload *Workload `json:"workload,omitempty"`
	// Node is the name of the node, if the address is a node's own.
	Node string `json:"node,omitempty"`
}

// Workload is what pods belong to, in the pods' namespace.
type Workload struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// Asked is a destination before destination NAT.
type Asked struct {
	IP   netip.Addr `json:"ip"`
	Port uint16     `json:"port,omitempty"`
	// Namespace and Service name the Service that has the address; empty if none is known.
	Namespace string `json:"namespace,omitempty"`
	Service   string `json:"service,omitempty"`
}

// Policy is a policy that has decided.
type Policy struct {
	// Kind is NetworkPolicy or ClusterNetworkPolicy.
	Kind string `json:"kind"`
	// Tier is Admin, NetworkPolicy or Baseline.
	Tier string `json:"tier"`
	// Namespace is empty for a ClusterNetworkPolicy.
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Rule is the deciding rule's place in the list of its direction, from 0; nil for a default deny.
	Rule *int `json:"rule,omitempty"`
	// RuleName is what the policy calls that rule.
	RuleName string `json:"ruleName,omitempty"`
	// Staged: it is not in force (annotation podfence.io/enforcement).
	Staged bool `json:"staged,omitempty"`
}

// DropLogAnnotation of a Namespace asks agents, by the value "true", for a line of the drop log for each denial
// at whose ends is a pod of this namespace, also where the drop log is off (--drop-log).
const DropLogAnnotation = "podfence.io/drop-log"
