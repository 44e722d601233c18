package answers

import "net/netip"

// TraceQuestion asks what the kernel would do now to the first packet of a connection, and which flows
// of that kind it knows.
type TraceQuestion struct {
	// Src is where the packet comes from, and Dst where it goes, after destination NAT: the pod, not
	// the Service. Both are of one family.
	Src netip.Addr `json:"src"`
	Dst netip.Addr `json:"dst"`
	// Protocol is the IP protocol: "tcp", "udp", "sctp", "icmp", "icmpv6" in any case, or a number.
	Protocol string `json:"protocol"`
	// Port is the destination port, of protocols that have ports.
	Port uint16 `json:"port,omitempty"`
	// ICMPType is the message's type, for ICMP and ICMPv6. Without it, an echo request is asked about.
	ICMPType *uint8 `json:"icmpType,omitempty"`
}

// Trace is what the kernel's tables would do to a packet, as they were read back from the kernel, and
// which flows connection tracking knows that began with such a packet.
type Trace struct {
	TypeMeta `json:",inline"`
	// Node is the name of the node whose kernel this is.
	Node string `json:"node"`
	// Question is what was asked, with what was filled in.
	Question TraceQuestion `json:"question"`
	// Verdict is the first hook's that is not Pass, or Pass.
	Verdict Verdict `json:"verdict"`
	// Hooks are the hooks of podfence's tables that the packet would take, in order, up to the one
	// that denies it.
	Hooks []Hook `json:"hooks"`
	// Flows are those that connection tracking knows, in no order, at most MaxFlows; FlowCount counts
	// all, and RevokedCount those of them that are marked as revoked. FlowsError says why they could
	// not be listed; it is empty if they were.
	Flows        []Flow `json:"flows,omitempty"`
	FlowCount    int    `json:"flowCount"`
	RevokedCount int    `json:"revokedCount"`
	FlowsError   string `json:"flowsError,omitempty"`
}

// AnsweredBy is the name of the node whose agent has answered.
func (t *Trace) AnsweredBy() string { return t.Node }

// MaxFlows is how many flows a Trace lists at most.
const MaxFlows = 50

// Verdict is what becomes of a packet.
type Verdict string

// The verdicts.
const (
	Pass   Verdict = "pass"
	Drop   Verdict = "drop"
	Reject Verdict = "reject" // dropped, and its sender is told by an ICMP error or a TCP reset
)

// Hook is what one table does to the packet at one hook.
type Hook struct {
	// Family is the table's: "inet", or "bridge" for the guard. Hook is the hook's name in nft:
	// prerouting, forward, input or postrouting.
	Family string `json:"family"`
	Hook   string `json:"hook"`
	// Table says whether the kernel has the table; if it does not, nothing is denied here.
	Table bool `json:"table"`
	// Verdict is what all of the table's base chains at the hook say, one after the other.
	Verdict Verdict `json:"verdict"`
	// Steps are the rules that matched, in order.
	Steps []Step `json:"steps,omitempty"`
	// Assumed says what the kernel's verdict depends on that only a real packet can tell, such as
	// whether a limit is exceeded at that moment, and what was taken for it.
	Assumed []string `json:"assumed,omitempty"`
}

// Step is a rule that matched.
type Step struct {
	// Chain is its chain, Handle its number in the table, which `nft -a list table inet podfence`
	// shows.
	Chain  string `json:"chain"`
	Handle uint64 `json:"handle"`
	// Comment is the rule's, which says which policy and rule it is of; it may be empty.
	Comment string `json:"comment,omitempty"`
	// Action is what the rule does, as nft writes it: "accept", "drop", "reject", "return",
	// "jump CHAIN", "masquerade"; "policy drop" for a base chain's own; "continue" if it ends without.
	Action string `json:"action"`
}

// Flow is an entry of connection tracking.
type Flow struct {
	// Source is who began it, with the port, and Destination who answers, after destination NAT, with
	// the port. For ICMP the ports are 0.
	Source      netip.AddrPort `json:"source"`
	Destination netip.AddrPort `json:"destination"`
	// Addressed is whom it was sent to before destination NAT, such as a Service; it is left out if
	// that is the destination.
	Addressed netip.AddrPort `json:"addressed,omitzero"`
	// Revoked: it carries the mark by which podfence cuts it.
	Revoked bool `json:"revoked"`
	// Ended: the TCP connection is closed, and the entry will be forgotten.
	Ended bool `json:"ended,omitempty"`
}
