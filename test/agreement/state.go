package agreement

import (
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// track says what connection tracking takes a packet for.
func (c *Cluster) track(r *Result) {
	r.State, r.Midstream = first(r.Case)
	r.Midstream = r.Midstream && r.Seen.Protocol == r.Protocol
	if r.Of == nil || r.State == ruleset.Untracked || r.Wire.BadChecksum {
		return
	}
	switch {
	case r.Follow.reports():
		r.State = ruleset.Related
	case r.Follow == Answer || r.Of.Answered:
		r.State = ruleset.Established
	default: // nobody has answered yet
		r.State = ruleset.New
	}
}

// first is what connection tracking takes a packet for that is of no flow that it knows, and
// whether that begins no connection though it is new.
func first(one Case) (state ruleset.CtState, midstream bool) {
	switch {
	case one.Treatment == NoTrack:
		return ruleset.Untracked, false
	case one.Wire.BadChecksum:
		return ruleset.Invalid, false
	case random.Untracked(one.Packet):
		return ruleset.Untracked, false
	case !random.Begins(one.Packet):
		return ruleset.Invalid, false
	case one.Protocol == policy.SCTP:
		return ruleset.New, one.Wire.Heartbeat
	case one.Protocol == policy.TCP:
		return firstTCP(one.Wire.Flags)
	}
	return ruleset.New, false
}

// firstTCP is what TCP's flags make of a segment of no known connection: a new one if they can
// be at all (tcp_valid_flags in net/netfilter/nf_conntrack_proto_tcp.c), and begin one, or are
// of the middle of one. The push flag says nothing.
func firstTCP(flags uint8) (state ruleset.CtState, midstream bool) {
	switch flags &^ lab.PSH {
	case 0, lab.SYN, lab.SYN | lab.URG: // 0: a SYN, for lab.Wire
		return ruleset.New, false
	case lab.ACK, lab.ACK | lab.URG:
		return ruleset.New, true
	}
	return ruleset.Invalid, false
}

// tracked says whether connection tracking has a flow for the packet.
func (r *Result) tracked() bool {
	return r.State != ruleset.Untracked && r.State != ruleset.Invalid
}

// isTranslated says whether destination NAT has led the packet's flow elsewhere.
func (r *Result) isTranslated() bool {
	if r.Of != nil {
		return r.Of.isTranslated()
	}
	return r.tracked() && (r.Service.IsValid() || r.Seen.Hairpin)
}
