package nft

import "net/netip"

// Visit is a packet at a hook of podfence's table of a family: what the kernel is asked about.
type Visit struct {
	Family Family
	Hook   HookPoint
	Packet TracePacket
}

// Visited is what the kernel's table does to the packet of a Visit. If the kernel has no such Table, or
// if the table is dormant, that is nothing.
type Visited struct {
	Visit
	Table bool
	ReadTrace
}

// ReadTrace is the way of a packet through the base chains of one hook, by rules that were read back
// from the kernel. A Trace is the same by rules that should be there.
type ReadTrace struct {
	// Steps are the rules that matched, in order.
	Steps []ReadStep
	// Verdict is Accept, Drop or Reject.
	Verdict Action
	// Assumed says what was taken for granted that only a real packet would tell.
	Assumed []string
}

// ReadStep is a rule that a packet met, or a base chain's policy.
type ReadStep struct {
	Chain string
	// Position is the rule's in its chain, from 0; -1 for the chain's policy, which has no Handle and
	// no Comment.
	Position int
	Handle   uint64
	Comment  string
	// Ended: the rule came to Verdict. Otherwise the rule after it came next.
	Ended   bool
	Verdict Verdict
}

// Action is what the rule does, as nft writes it; "continue" if it does not end there, and
// "policy drop" for a base chain's policy.
func (s ReadStep) Action() string {
	switch {
	case s.Position < 0:
		return "policy " + s.Verdict.String()
	case !s.Ended:
		return "continue"
	case s.Verdict.Action == Reject: // what it answers is not read
		return "reject"
	case s.Verdict.Action == Masquerade:
		return "masquerade"
	}
	return s.Verdict.String()
}

// Link is a link of the node by which packets come or go.
type Link struct {
	Name  string
	Group uint32
	// Master is the name of the bridge, or of another link, that it is a port of; empty: it is none's.
	Master string
	// Local: the address that was asked about is the node's own.
	Local bool
}

// TrackedFlow is an entry of connection tracking.
type TrackedFlow struct {
	// Source has begun it. Destination is who answers, after destination NAT, and Addressed whom it
	// was sent to before that. Ports are 0 where the protocol has none.
	Source, Destination, Addressed netip.AddrPort
	// Revoked: it carries the bit of the mark that cuts it. Ended: the TCP connection is closed.
	Revoked, Ended bool
}
