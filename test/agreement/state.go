package agreement

import (
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// track says what connection tracking takes a packet for.
func (c *Cluster) track(r *Result) {
	r.State, r.Midstream = first(r.Case)
	r.Midstream = r.Midstream && r.Seen.Protocol == r.Protocol
	if r.Of == nil || r.State == nft.Untracked || r.Wire.BadChecksum {
		return
	}
	switch {
	case r.Follow.reports():
		r.State = nft.Related
	case r.Follow == Answer || r.Of.Answered:
		r.State = nft.Established
	default: // nobody has answered yet
		r.State = nft.New
	}
}

// first is what connection tracking takes a packet for that is of no flow that it knows, and
// whether that begins no connection though it is new.
func first(one Case) (state nft.CtState, midstream bool) {
	switch {
	case one.Treatment == NoTrack:
		return nft.Untracked, false
	case one.Wire.BadChecksum:
		return nft.Invalid, false
	case random.Untracked(one.Packet):
		return nft.Untracked, false
	case !random.Begins(one.Packet):
		return nft.Invalid, false
	case one.Protocol == policy.SCTP:
		return nft.New, one.Wire.Heartbeat
	case one.Protocol == policy.TCP:
		return firstTCP(one.Wire.Flags)
	}
	return nft.New, false
}

// firstTCP is what TCP's flags make of a segment of no known connection: a new one if they can
// be at all (tcp_valid_flags in net/netfilter/nf_conntrack_proto_tcp.c), and begin one, or are
// of the middle of one. The push flag says nothing.
func firstTCP(flags uint8) (state nft.CtState, midstream bool) {
	switch flags &^ lab.PSH {
	case 0, lab.SYN, lab.SYN | lab.URG: // 0: a SYN, for lab.Wire
		return nft.New, false
	case lab.ACK, lab.ACK | lab.URG:
		return nft.New, true
	}
	return nft.Invalid, false
}

// tracked says whether connection tracking has a flow for the packet.
func (r *Result) tracked() bool {
	return r.State != nft.Untracked && r.State != nft.Invalid
}

// isTranslated says whether destination NAT has led the packet's flow elsewhere.
func (r *Result) isTranslated() bool {
	if r.Of != nil {
		return r.Of.isTranslated()
	}
	return r.tracked() && (r.Service.IsValid() || r.Seen.Hairpin)
}
