package packet

import (
	"fmt"
	"net/netip"
	"slices"
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
	// HopLimit is the IPv6 hop limit. By it, real neighbour discovery on the link is told from a
	// packet that only looks like it.
	HopLimit uint8
	// HopByHop: it is IPv6, with hop-by-hop options.
	HopByHop bool
	// Extended: it is IPv6, and another extension header comes first.
	Extended bool
	// Hairpin says that a pod's packet to its own address went out to a Service
	// first. One that did not never leaves the pod.
	Hairpin bool
}

// NextHeader is the number of what comes right after the IPv6 header.
func (p Packet) NextHeader() Protocol {
	switch {
	case p.HopByHop:
		return 0
	case p.Extended:
		return 60 // any extension header will do: nobody looks at which it is
	}
	return p.Protocol
}

// ReportsError says whether it is an ICMP error: a message about another packet, which it
// quotes (RFC 792, RFC 4443 section 2.1). It begins nothing.
func (p Packet) ReportsError() bool {
	switch p.Protocol {
	case ICMP:
		return slices.Contains([]uint8{3, 4, 5, 11, 12}, p.ICMPType)
	case ICMPv6:
		return p.ICMPType < 128
	}
	return false
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
