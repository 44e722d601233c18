package nft

import (
	"net/netip"
	"time"

	"github.com/podfence/podfence/policy/packet"
)

// ConnEvent is what connection tracking tells of a connection: that it has begun, which is when its first
// packet has passed all rules, or that it has ended, which is when connection tracking forgets it. It is a
// plain value.
type ConnEvent struct {
	Ended bool
	// Time is when it happened, by the kernel's clock if the kernel says so
	// (net.netfilter.nf_conntrack_timestamp), otherwise when it was heard of.
	Time time.Time
	// Original are the ends of packets in the direction of the first packet, before NAT. Reply are those of
	// the replies, as they arrive: after destination NAT, Reply.Src is whom the first packet has reached.
	Original, Reply ConnEnds
	Protocol        packet.Protocol
	// ICMPType and ICMPCode are the first packet's, of ICMP and ICMPv6.
	ICMPType, ICMPCode uint8
	// Mark is the conntrack mark. Of a connection that has begun, it is the one when that was told.
	Mark uint32
	// Announced: another connection has announced it, as FTP's control connection does its data, so that it
	// was let pass without being judged.
	Announced bool
	// Hook is where the first packet was judged: Input if it was for the node itself, Output if the node has
	// sent it, otherwise Forward.
	Hook HookPoint
	// Counted says that the kernel has counted, from its beginning, what the connection has carried in each
	// direction. Only a connection that has ended has counts.
	Counted                     bool
	OriginalCounts, ReplyCounts ConnCounts
	// SampledOf says that this is one of so many connections, of which the others are not told; 1: all are.
	SampledOf uint32
}

// ConnEnds are a source and a destination, with ports if the protocol has them, otherwise 0.
type ConnEnds struct{ Src, Dst netip.AddrPort }

// ConnCounts is what a connection has carried in one direction. Bytes are those of whole IP packets.
type ConnCounts struct{ Packets, Bytes uint64 }

// First is the connection's first packet as the forward and input hooks see it: after destination NAT,
// before source NAT.
func (e *ConnEvent) First() packet.Packet {
	return packet.Packet{
		Src: e.Original.Src.Addr(), Dst: e.Reply.Src.Addr(),
		Protocol: e.Protocol, DstPort: e.Reply.Src.Port(), ICMPType: e.ICMPType, HopLimit: 64,
	}
}
