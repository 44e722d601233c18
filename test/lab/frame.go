package lab

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Wrap is what an IP packet is inside of, or has between its header and the rest.
type Wrap uint8

// VLAN is what a tag names that names a VLAN.
const VLAN = 5

// What there is. Those from HopByHop on are extension headers of IPv6, and those before
// Mistyped another type of frame.
const (
	Plain Wrap = iota
	Tag0       // VLAN tags, 802.1Q or 802.1ad, with priority only (0) or VLAN
	Tag5
	Service0
	Service5
	Stacked0
	Stacked5
	Double0 // 802.1Q twice
	Triple0
	Priority5 // 802.1Q with priority only, and a VLAN inside
	Older     // a tag from before 802.1ad, which no stack knows
	PPPoE
	TagPPPoE // in a tag with priority only
	MPLS
	MPLSGroup
	SNAP
	LLC      // an 802.3 frame with the SAP of IP
	Nested   // transparent Ethernet bridging: a frame in a frame
	Mistyped // the EtherType of the other family
	HopByHop // IPv6 extension headers from here on
	Routing
	Fragment
	Destination
)

func (w Wrap) String() string { return wrapNames[w] }

var wrapNames = [...]string{
	"", "802.1Q tag 0", "802.1Q tag 5", "802.1ad tag 0", "802.1ad tag 5", "802.1ad and 802.1Q tags 0", "802.1ad and 802.1Q tags 5",
	"two 802.1Q tags 0", "802.1ad and two 802.1Q tags 0", "802.1Q tags 0 and 5", "tag 0x9100", "PPPoE", "PPPoE in 802.1Q tag 0",
	"MPLS", "MPLS multicast", "SNAP", "802.3 of SAP 6", "a frame in a frame", "the other family's EtherType", "a hop-by-hop header", "a routing header", "a fragment header", "a destination options header",
}

// Around is the frame around a packet, by the packet's family; b are its hardware addresses.
func (w Wrap) Around(b, packet []byte) []byte {
	kind, other, ppp := uint16(unix.ETH_P_IP), uint16(unix.ETH_P_IPV6), uint16(0x21)
	if packet[0]>>4 == 6 {
		kind, other, ppp = other, kind, 0x57
	}
	before := func(numbers ...uint16) {
		for _, n := range numbers {
			b = binary.BigEndian.AppendUint16(b, n)
		}
	}
	switch w {
	case Tag0, Tag5:
		before(unix.ETH_P_8021Q, VLAN*uint16(w-Tag0), kind)
	case Service0, Service5:
		before(unix.ETH_P_8021AD, VLAN*uint16(w-Service0), kind)
	case Stacked0, Stacked5:
		before(unix.ETH_P_8021AD, VLAN*uint16(w-Stacked0), unix.ETH_P_8021Q, VLAN*uint16(w-Stacked0), kind)
	case Double0:
		before(unix.ETH_P_8021Q, 0, unix.ETH_P_8021Q, 0, kind)
	case Triple0:
		before(unix.ETH_P_8021AD, 0, unix.ETH_P_8021Q, 0, unix.ETH_P_8021Q, 0, kind)
	case Priority5:
		before(unix.ETH_P_8021Q, 0, unix.ETH_P_8021Q, VLAN, kind)
	case Older:
		before(unix.ETH_P_QINQ1, 0, kind)
	case PPPoE:
		before(unix.ETH_P_PPP_SES, 0x1100, 1, uint16(2+len(packet)), ppp)
	case TagPPPoE:
		before(unix.ETH_P_8021Q, 0, unix.ETH_P_PPP_SES, 0x1100, 1, uint16(2+len(packet)), ppp)
	case MPLS:
		before(unix.ETH_P_MPLS_UC, 1, 0x0140) // label 16, bottom of the stack
	case MPLSGroup:
		before(unix.ETH_P_MPLS_MC, 1, 0x0140)
	case LLC:
		b = append(binary.BigEndian.AppendUint16(b, uint16(3+len(packet))), 6, 6, 3)
	case Nested:
		inside := bytes.Clone(b)
		before(unix.ETH_P_TEB)
		b = append(b, inside...)
		before(kind)
	case SNAP:
		before(uint16(8+len(packet)), 0xaaaa, 0x0300, 0, kind)
	case Mistyped:
		before(other)
	default:
		before(kind)
	}
	return append(b, packet...)
}
