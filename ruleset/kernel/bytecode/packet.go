package bytecode

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset/nft"
)

// header lengths, in bytes.
const (
	linkBytes = 14
	ipv4Bytes = 20
	ipv6Bytes = 40
	arpBytes  = 28
)

// headers are a packet as bytes. One that the packet does not have is empty.
type headers struct{ link, network, transport bits }

func headersOf(family nft.Family, p nft.TracePacket) (h headers) {
	if family == nft.Bridge {
		h.link = unknown(linkBytes)
		h.link.set(0, p.Frame.Dst[:]...)
		h.link.set(6, p.Frame.Src[:]...)
		h.link.set(12, binary.BigEndian.AppendUint16(nil, p.Frame.Type)...)
	}
	switch {
	case !p.Src.IsValid():
		h.network = arp(p.Frame)
		return h
	case p.Src.Is4():
		h.network = ipv4(p)
	default:
		h.network = ipv6(p)
	}
	if p.Fragment == nft.Whole || p.Fragment == nft.First {
		h.transport = transport(p)
	}
	return h
}

// arp is an ARP message; of any other frame without an IP packet, nothing is known.
func arp(f nft.Frame) bits {
	b := unknown(arpBytes)
	if f.Type == nft.TypeARP && f.ARP.Src.Is4() && f.ARP.Dst.Is4() {
		b.set(8, f.ARP.SrcMAC[:]...)
		b.set(14, f.ARP.Src.AsSlice()...)
		b.set(24, f.ARP.Dst.AsSlice()...)
	}
	return b
}

func ipv4(p nft.TracePacket) bits {
	b := unknown(ipv4Bytes)
	b.set(9, byte(p.Protocol))
	b.set(12, p.Src.AsSlice()...)
	b.set(16, p.Dst.AsSlice()...)
	// The flags are: reserved, don't fragment, more fragments. The offset has 13 bits.
	switch p.Fragment {
	case nft.Whole:
		b.setBits(6, bits{[]byte{0, 0}, []byte{0x3f, 0xff}})
	case nft.Later: // some bit of the offset is set: it does not matter which
		b.setBits(6, bits{[]byte{0, 1}, []byte{0, 1}})
	default:
		b.setBits(6, bits{[]byte{0x20, 0}, []byte{0x3f, 0xff}})
	}
	return b
}

func ipv6(p nft.TracePacket) bits {
	b := unknown(ipv6Bytes)
	b.set(6, byte(p.NextHeader()), p.HopLimit)
	b.set(8, p.Src.AsSlice()...)
	b.set(24, p.Dst.AsSlice()...)
	return b
}

// fragmentHeader is the header of an IPv6 fragment (RFC 8200 section 4.5); none if it is whole.
func fragmentHeader(p nft.TracePacket) (b bits, has bool) {
	if p.Fragment == nft.Whole || !p.Src.Is6() {
		return bits{}, false
	}
	b = unknown(8)
	b.set(0, byte(p.Protocol))
	// The offset has 13 bits; the last bit says that more fragments follow.
	if p.Fragment == nft.Later {
		b.setBits(2, bits{[]byte{0, 8}, []byte{0, 8}})
	} else {
		b.setBits(2, bits{[]byte{0, 1}, []byte{0xff, 0xf9}})
	}
	return b, true
}

// transportBytes are how long the headers are of protocols that rules ask more of than 8 octets; the
// SCTP header has that of its first chunk behind it.
var transportBytes = map[packet.Protocol]int{packet.TCP: 20, packet.SCTP: 16}

// transport is the upper-layer header. DstPort is what a nft.TracePacket says of bytes 2 and 3 of
// protocols without ports, but for ICMP's messages, of which that is the checksum, too, so that rules
// which look ports up find none.
func transport(p nft.TracePacket) bits {
	b := unknown(max(8, transportBytes[p.Protocol]))
	if p.SrcPort != 0 {
		b.set(0, binary.BigEndian.AppendUint16(nil, p.SrcPort)...)
	}
	b.set(2, binary.BigEndian.AppendUint16(nil, p.DstPort)...)
	switch p.Protocol {
	case packet.ICMP, packet.ICMPv6:
		b.set(0, p.ICMPType)
	case packet.TCP:
		const syn = 0x02
		if p.Midstream {
			b.setBits(13, bits{[]byte{0}, []byte{syn}})
		} else {
			b.setBits(13, bits{[]byte{syn}, []byte{syn}})
		}
	case packet.SCTP:
		const data, initiate = 0, 1 // types of chunks
		b.set(12, initiate)
		if p.Midstream {
			b.set(12, data)
		}
	}
	return b
}

// protocolFamily is the family that a packet of a table of family inet has.
func protocolFamily(p nft.TracePacket) byte {
	if p.Src.Is4() {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}

// etherType is what the kernel takes a frame's content for (skb->protocol).
func etherType(p nft.TracePacket) uint16 {
	switch {
	case !p.Src.IsValid():
		return p.Frame.Type
	case p.Src.Is4():
		return nft.TypeIPv4
	}
	return nft.TypeIPv6
}
