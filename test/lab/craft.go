package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"

	"github.com/podfence/podfence/policy"
)

// tagSize is the length of a tag: 4 octets magic, 4 the lab's run, 6 the
// packet's number. Two octets less than a multiple of eight: with an option
// header it is one neighbour discovery option.
const tagSize = 14

// magic begins each tag.
const magic = 0x70664c62 // "pfLb"

func newTag(run uint32, number uint64) [tagSize]byte {
	var t [tagSize]byte
	binary.BigEndian.PutUint64(t[6:], number)
	binary.BigEndian.PutUint32(t[0:], magic)
	binary.BigEndian.PutUint32(t[4:], run)
	return t
}

// readTag returns the number in the tag at the packet's end.
func readTag(packet []byte, run uint32) (uint64, bool) {
	if len(packet) < tagSize {
		return 0, false
	}
	t := packet[len(packet)-tagSize:]
	if binary.BigEndian.Uint32(t) != magic || binary.BigEndian.Uint32(t[4:]) != run {
		return 0, false
	}
	return uint64(binary.BigEndian.Uint16(t[8:]))<<32 | uint64(binary.BigEndian.Uint32(t[10:])), true
}

// Craft returns a whole IP packet with the given source port (for ICMP, the
// identifier) and payload. Where the protocol has checksums, they are right.
//
// TCP is a SYN that carries the payload. SCTP is an INIT with the payload in a
// padding parameter (RFC 4820). Neighbour discovery messages hold it in a
// nonce option. DCCP is a request. Other protocols than these have the payload behind a header
// of zeros; GRE's and UDP-Lite's are valid ones. The numbers that are extension headers in
// IPv6 (0, 43, 44, 51, 60, 135) are not crafted as such: routers and
// receivers take them for malformed.
func Craft(p policy.Packet, srcPort uint16, payload []byte) ([]byte, error) {
	src, dst := p.Src.Unmap(), p.Dst.Unmap()
	if !src.IsValid() || !dst.IsValid() || src.Is4() != dst.Is4() {
		return nil, fmt.Errorf("craft packet %s: source and destination differ in family", p)
	}
	body, err := transport(p, srcPort, payload)
	if err != nil {
		return nil, fmt.Errorf("craft packet %s: %w", p, err)
	}
	Checksum(p, body)
	ttl := p.HopLimit
	if ttl == 0 {
		ttl = 64
	}
	return append(ipHeader(src, dst, p.Protocol, ttl, len(body)), body...), nil
}

// Checksum fills in the checksum of what follows the IP header of a packet between two
// addresses. Of a protocol that has none it does nothing.
func Checksum(p policy.Packet, body []byte) {
	src, dst := p.Src.Unmap(), p.Dst.Unmap()
	put := func(at int, initial uint32) {
		binary.BigEndian.PutUint16(body[at:], 0)
		sum := checksum(body, initial)
		if sum == 0 && (p.Protocol == policy.UDP || p.Protocol == protocolUDPLite) {
			sum = 0xffff // zero means none, which IPv6 forbids; ones' complement has two zeros
		}
		binary.BigEndian.PutUint16(body[at:], sum)
	}
	switch p.Protocol {
	case policy.TCP:
		put(16, pseudoHeader(src, dst, p.Protocol, len(body)))
	case policy.UDP, protocolDCCP:
		put(6, pseudoHeader(src, dst, p.Protocol, len(body)))
	case protocolUDPLite:
		// Connection tracking takes it for UDP there (udplite_error in
		// net/netfilter/nf_conntrack_proto_udp.c): what is right would be invalid.
		put(6, pseudoHeader(src, dst, policy.UDP, len(body)))
	case policy.ICMP:
		put(2, 0)
	case policy.ICMPv6:
		put(2, pseudoHeader(src, dst, p.Protocol, len(body)))
	case policy.SCTP:
		// The only checksum that is sent least significant octet first.
		binary.LittleEndian.PutUint32(body[8:], 0)
		binary.LittleEndian.PutUint32(body[8:], crc32.Checksum(body, castagnoli))
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ipHeader returns a header without options. The kernel fills in an IPv4
// header's checksum and identification.
func ipHeader(src, dst netip.Addr, protocol policy.Protocol, ttl uint8, length int) []byte {
	if src.Is4() {
		h := make([]byte, 20, 20+length)
		h[0] = 0x45
		binary.BigEndian.PutUint16(h[2:], uint16(20+length))
		h[8], h[9] = ttl, byte(protocol)
		copy(h[12:], src.AsSlice())
		copy(h[16:], dst.AsSlice())
		return h
	}
	h := make([]byte, 40, 40+length)
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[4:], uint16(length))
	h[6], h[7] = byte(protocol), ttl
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	return h
}

// transport returns what follows the IP header, checksums zero.
func transport(p policy.Packet, srcPort uint16, payload []byte) ([]byte, error) {
	switch p.Protocol {
	case policy.TCP:
		b := make([]byte, 20, 20+len(payload))
		binary.BigEndian.PutUint16(b[0:], srcPort)
		binary.BigEndian.PutUint16(b[2:], p.DstPort)
		// A sequence number of its own for each connection.
		binary.BigEndian.PutUint32(b[4:], crc32.ChecksumIEEE(payload))
		b[12], b[13] = 5<<4, 0x02 // 5 words of header; SYN
		binary.BigEndian.PutUint16(b[14:], 64240)
		return append(b, payload...), nil
	case policy.UDP:
		b := make([]byte, 8, 8+len(payload))
		binary.BigEndian.PutUint16(b[0:], srcPort)
		binary.BigEndian.PutUint16(b[2:], p.DstPort)
		binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
		return append(b, payload...), nil
	case policy.SCTP:
		return sctpInit(p, srcPort, payload), nil
	case policy.ICMP:
		if p.Src.Is6() && !p.Src.Is4In6() {
			return nil, errors.New("ICMP over IPv6")
		}
		b := make([]byte, 8, 8+len(payload))
		b[0] = p.ICMPType
		binary.BigEndian.PutUint16(b[4:], srcPort)
		return append(b, payload...), nil
	case policy.ICMPv6:
		if p.Src.Is4() || p.Src.Is4In6() {
			return nil, errors.New("ICMPv6 over IPv4")
		}
		return icmpv6(p, srcPort, payload), nil
	case protocolGRE:
		// Version 0, no options, carrying IPv4 (RFC 2784).
		return append([]byte{0, 0, 0x08, 0x00}, payload...), nil
	case protocolUDPLite:
		// Coverage 0: the checksum is of the whole (RFC 3828).
		b := make([]byte, 8, 8+len(payload))
		binary.BigEndian.PutUint16(b[0:], srcPort)
		binary.BigEndian.PutUint16(b[2:], p.DstPort)
		return append(b, payload...), nil
	case protocolDCCP:
		// A request with a long sequence number, for service 0 (RFC 4340 section 5).
		b := make([]byte, 20, 20+len(payload))
		binary.BigEndian.PutUint16(b[0:], srcPort)
		binary.BigEndian.PutUint16(b[2:], p.DstPort)
		b[4], b[8] = 20/4, 1
		binary.BigEndian.PutUint32(b[12:], crc32.ChecksumIEEE(payload))
		return append(b, payload...), nil
	}
	return append(make([]byte, 4, 4+len(payload)), payload...), nil
}

// Protocols that policy has no names for.
const (
	protocolDCCP    policy.Protocol = 33
	protocolGRE     policy.Protocol = 47
	protocolUDPLite policy.Protocol = 136
)

// sctpInit is a common header and an INIT chunk (RFC 9260 section 3.3.2).
func sctpInit(p policy.Packet, srcPort uint16, payload []byte) []byte {
	// The parameter has its header and then, so that the payload is last and
	// the whole a multiple of four octets, padding and the payload.
	const headers, chunk = 12, 20
	pad := (4 - len(payload)%4) % 4
	parameter := 4 + pad + len(payload)
	b := make([]byte, headers+chunk+parameter)
	binary.BigEndian.PutUint16(b[0:], srcPort)
	binary.BigEndian.PutUint16(b[2:], p.DstPort)
	c := b[headers:]
	c[0] = 1 // INIT
	binary.BigEndian.PutUint16(c[2:], uint16(chunk+parameter))
	binary.BigEndian.PutUint32(c[4:], crc32.ChecksumIEEE(payload)|1) // initiate tag, not zero
	binary.BigEndian.PutUint32(c[8:], 65536)                         // receiver window
	binary.BigEndian.PutUint16(c[12:], 1)                            // streams out
	binary.BigEndian.PutUint16(c[14:], 1)                            // streams in
	binary.BigEndian.PutUint32(c[16:], 1)                            // initial TSN
	binary.BigEndian.PutUint16(c[20:], 0x8005)                       // padding
	binary.BigEndian.PutUint16(c[22:], uint16(parameter))
	copy(c[24+pad:], payload)
	return b
}

// icmpv6 is a message of any type. Those of neighbour discovery are valid for
// the kernel, too: their options must have a length, in units of 8 octets.
func icmpv6(p policy.Packet, id uint16, payload []byte) []byte {
	header := []byte{p.ICMPType, 0, 0, 0, 0, 0, 0, 0}
	option := false
	switch p.ICMPType {
	case 133: // router solicitation
		option = true
	case 134: // router advertisement: lifetime 0, and two timers
		header, option = append(header, make([]byte, 8)...), true
	case 135, 136: // neighbour solicitation, advertisement: the target
		target := p.Dst
		if p.ICMPType == 136 || target.IsMulticast() {
			target = p.Src
		}
		header, option = append(header, target.AsSlice()...), true
	case 137: // redirect: target and destination
		header = append(append(header, p.Src.AsSlice()...), p.Dst.AsSlice()...)
		option = true
	case 130, 131, 132: // multicast listener discovery: the group
		header = append(header, make([]byte, 16)...)
	case 143: // its version 2: no records, and the payload behind them
	default:
		binary.BigEndian.PutUint16(header[4:], id)
	}
	if option && (2+len(payload))%8 == 0 {
		header = append(header, 14, byte((2+len(payload))/8)) // nonce, RFC 3971 section 5.3.2
	}
	return append(header, payload...)
}

func pseudoHeader(src, dst netip.Addr, protocol policy.Protocol, length int) uint32 {
	return sum16(src.AsSlice()) + sum16(dst.AsSlice()) + uint32(protocol) + uint32(length)
}

func sum16(b []byte) (sum uint32) {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

// checksum is the Internet checksum (RFC 1071) of b, started at a sum.
func checksum(b []byte, sum uint32) uint16 {
	sum += sum16(b)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
