package policy

import (
	"fmt"
	"net/netip"
)

// Packet is the first packet of a connection, as the forward or input hook
// sees it: after destination NAT, before source NAT.
type Packet struct {
	Src, Dst netip.Addr
	Protocol Protocol
	// DstPort is the destination port, for protocols that have one.
	DstPort uint16
	// ICMPType is the message type, for ICMP and ICMPv6.
	ICMPType uint8
	// HopLimit is the IPv6 hop limit; it tells neighbour discovery on the link
	// from a packet that only looks like it.
	HopLimit uint8
	// Hairpin says that a pod's packet to its own address went out to a Service
	// first. One that did not never leaves the pod.
	Hairpin bool
}

func (p Packet) String() string {
	switch p.Protocol {
	case TCP, UDP, SCTP:
		return fmt.Sprintf("%s %s -> %s", p.Protocol, p.Src, netip.AddrPortFrom(p.Dst, p.DstPort))
	case ICMP, ICMPv6:
		return fmt.Sprintf("%s type %d %s -> %s", p.Protocol, p.ICMPType, p.Src, p.Dst)
	}
	return fmt.Sprintf("%s %s -> %s", p.Protocol, p.Src, p.Dst)
}

// The hop limits that ICMPv6's own link-local messages must have: a router
// that forwarded one would have lowered it (RFC 4861 section 6.1, RFC 2710
// section 3, RFC 3810 section 5).
const (
	NeighbourDiscoveryHopLimit = 255
	MulticastListenerHopLimit  = 1
)

// NeighbourDiscovery are the ICMPv6 types without which a link does not work:
// router and neighbour solicitation and advertisement, redirect.
var NeighbourDiscovery = []uint8{133, 134, 135, 136, 137}

// MulticastListener are the ICMPv6 types of multicast listener discovery,
// versions 1 and 2.
var MulticastListener = []uint8{130, 131, 132, 143}
