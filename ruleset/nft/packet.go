package nft

import (
	"net/netip"

	"github.com/podfence/podfence/policy/packet"
)

// TracePacket is a packet at a hook, with what the kernel knows of its flow.
type TracePacket struct {
	packet.Packet
	// State is one bit; New for the first packet of a connection.
	State CtState
	// Mark is the flow's conntrack mark.
	Mark uint32
	// Open asks about a packet that would begin the connection anew of a flow that is open: what has lapsed in a timed set
	// still counts for it.
	Open bool
	// Midstream: it begins no connection, whatever State is.
	Midstream bool
	// DNAT: destination NAT has led its flow elsewhere.
	DNAT bool
	// Reply: it goes in the other direction than the one in which its flow has begun. It counts only where there is a
	// flow.
	Reply bool
	// SrcPort is its source port; 0: nobody says.
	SrcPort uint16
	// Elsewhere: it came in by another link than the one that leads to its source.
	Elsewhere bool
	// Fragment says which part of a datagram it is, or that it is whole.
	Fragment FragmentPart
	// Flow is the flow that State is about, if there is one. For an ICMP error, that is the flow
	// of the packet that it quotes.
	Flow Flow
	// Loopback: it came in on the loopback device.
	Loopback bool
	// Frame is the frame that it came in, for the table of family bridge.
	Frame Frame
}

// FragmentPart is a part of a datagram.
type FragmentPart uint8

// The parts.
const (
	Whole      FragmentPart = iota
	First                   // with an upper-layer header
	Headerless              // the first, without an upper-layer header
	Later
)

// Flow is the sources of a flow's packets, as connection tracking has them before NAT: that of
// packets in the direction of the first packet, and that of packets in the other direction. If
// they are no addresses, there is no flow.
type Flow struct{ OriginalSrc, ReplySrc netip.Addr }

// Frame is what a bridge sees around a packet.
type Frame struct {
	// Port is the name of the bridge's port that the frame came in by, and Out the name of the port
	// that it goes out by. Outside of a bridge these are the names of the links.
	Port, Out string
	// Group is the group of the link that it came in by.
	Group    uint32
	Src, Dst [6]byte
	// Here: Dst is the port's own address, or the bridge's.
	Here bool
	// Type is the EtherType as it is on the wire: if the frame has a VLAN tag, the tag's. If it is
	// the type of ARP, there is no packet; ARP has the message then.
	Type uint16
	ARP  ARP
}

// PacketType is the kind of address that the frame was sent to.
func (f Frame) PacketType() PacketType {
	switch {
	case f.Dst == [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}:
		return Broadcast
	case f.Dst[0]&1 != 0:
		return Multicast
	case f.Here:
		return Host
	}
	return otherHost
}

// ARP is an ARP message, as far as anyone looks at it.
type ARP struct {
	SrcMAC   [6]byte
	Src, Dst netip.Addr
}
