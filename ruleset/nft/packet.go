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
	// Midstream: it begins no connection, whatever State is.
	Midstream bool
	// DNAT: destination NAT has led its flow elsewhere.
	DNAT bool
	// Elsewhere: it came in by another link than the one that leads to its source.
	Elsewhere bool
	// Fragment says what part of a datagram it is, where it is not whole.
	Fragment FragmentPart
	// Flow is the flow that State is about, if there is one: of an ICMP error, that of
	// the packet that it quotes.
	Flow Flow
	// Loopback: it came in on the loopback device.
	Loopback bool
	// Frame is what it came in, for the table of family bridge.
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

// Flow are the sources of a flow's packets, as connection tracking has them: of those that
// are sent as the first was, and of those the other way, as they are before NAT. No
// addresses: there is no flow.
type Flow struct{ OriginalSrc, ReplySrc netip.Addr }

// Frame is what a bridge sees around a packet.
type Frame struct {
	// Port is the name of the bridge's port that it came in by, Out of the one that it goes
	// out by; outside of a bridge, of the links.
	Port, Out string
	// Group is the group of the link that it came in by.
	Group    uint32
	Src, Dst [6]byte
	// Type is the EtherType as it is on the wire: a VLAN tag's, if it has one.
	// If it is ARP's, there is no packet, but ARP.
	Type uint16
	ARP  ARP
}

// PacketType is where the frame went to; 0: to one hardware address.
func (f Frame) PacketType() PacketType {
	switch {
	case f.Dst == [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}:
		return Broadcast
	case f.Dst[0]&1 != 0:
		return Multicast
	}
	return 0
}

// ARP is an ARP message, as far as anyone looks at it.
type ARP struct {
	SrcMAC   [6]byte
	Src, Dst netip.Addr
}
