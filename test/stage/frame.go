package stage

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
)

// Wrap is what an IP packet is inside of, or has between its header and the rest.
type Wrap uint8

// What there is. Those from HopByHop on are extension headers of IPv6, and those before
// Mistyped another type of frame.
const (
	Plain Wrap = iota
	Tag0       // VLAN tags, 802.1Q or 802.1ad, with priority only (0) or a VLAN
	Tag1
	Service0
	Service1
	Stacked0
	Stacked1
	Double0 // 802.1Q twice
	Triple0
	Priority1 // 802.1Q with priority only, and a VLAN inside
	Older     // a tag from before 802.1ad, which no stack knows
	PPPoE
	TagPPPoE // in a tag with priority only
	MPLS
	MPLSGroup
	SNAP
	LLC      // an 802.3 frame with the SAP of IP
	Bridged  // transparent Ethernet bridging: a frame in a frame
	Mistyped // the EtherType of the other family
	HopByHop // IPv6 extension headers from here on
	Routing
	Fragment
	Destination
)

func (w Wrap) String() string { return wrapNames[w] }

var wrapNames = [...]string{
	"", "802.1Q tag 0", "802.1Q tag 1", "802.1ad tag 0", "802.1ad tag 1", "802.1ad and 802.1Q tags 0", "802.1ad and 802.1Q tags 1",
	"two 802.1Q tags 0", "802.1ad and two 802.1Q tags 0", "802.1Q tags 0 and 1", "tag 0x9100", "PPPoE", "PPPoE in 802.1Q tag 0",
	"MPLS", "MPLS multicast", "SNAP", "802.3 of SAP 6", "a frame in a frame", "the other family's EtherType", "a hop-by-hop header", "a routing header", "a fragment header", "a destination options header",
}

// MarkSize is the length of a mark, which lets neighbour discovery have it in an option.
const MarkSize = 14

const magic = "pF paths"

// Mark is what says which frame it is in.
func Mark(number int) []byte {
	m := append(make([]byte, 0, MarkSize), magic...)
	return append(binary.BigEndian.AppendUint16(m, uint16(number>>32)), byte(number>>24), byte(number>>16), byte(number>>8), byte(number))
}

// ReadMark returns the number of the first mark in b, and what is behind it.
func ReadMark(b []byte) (number int, rest []byte, found bool) {
	i := bytes.Index(b, []byte(magic))
	if i < 0 || len(b) < i+MarkSize {
		return 0, nil, false
	}
	rest = b[i+len(magic):]
	return int(binary.BigEndian.Uint16(rest))<<32 | int(binary.BigEndian.Uint32(rest[2:])), rest[6:], true
}

// Sum fills an IPv4 header's checksum in.
func Sum(header []byte) {
	binary.BigEndian.PutUint16(header[10:], 0)
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum))
}

// Extensions are the IPv6 extension headers, valid but for the first octet, the header
// that follows: a router alert (RFC 2711); a routing header that has nowhere left to go;
// a datagram in one fragment; an authentication header; padding.
var Extensions = map[policy.Protocol][]byte{
	0:  {0, 0, 5, 2, 0, 0, 1, 0},
	43: {0, 0, 253, 0, 0, 0, 0, 0},
	44: {0, 0, 0, 0, 0, 0, 0, 1},
	51: {0, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0},
	60: {0, 0, 1, 4, 0, 0, 0, 0},
}

// Extended puts an extension header between an IPv6 header and what follows.
func Extended(packet []byte, number uint16, extension []byte) []byte {
	b := append(bytes.Clone(packet[:40]), extension...)
	b[40], b[6] = packet[6], byte(number)
	binary.BigEndian.PutUint16(b[4:], uint16(len(packet)-40+len(extension)))
	return append(b, packet[40:]...)
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
	case Tag0, Tag1:
		before(unix.ETH_P_8021Q, uint16(w-Tag0), kind)
	case Service0, Service1:
		before(unix.ETH_P_8021AD, uint16(w-Service0), kind)
	case Stacked0, Stacked1:
		before(unix.ETH_P_8021AD, uint16(w-Stacked0), unix.ETH_P_8021Q, uint16(w-Stacked0), kind)
	case Double0:
		before(unix.ETH_P_8021Q, 0, unix.ETH_P_8021Q, 0, kind)
	case Triple0:
		before(unix.ETH_P_8021AD, 0, unix.ETH_P_8021Q, 0, unix.ETH_P_8021Q, 0, kind)
	case Priority1:
		before(unix.ETH_P_8021Q, 0, unix.ETH_P_8021Q, 1, kind)
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
	case Bridged:
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

// PerFragment is how many octets of a datagram are in each fragment but the last.
const PerFragment = 1440

// Split makes fragments of an IP packet, with an identification of their own.
func Split(packet []byte, id uint32) [][]byte { return Cut(packet, PerFragment, id) }

// Cut is Split into fragments of a size, a multiple of eight octets.
func Cut(packet []byte, size int, id uint32) (fragments [][]byte) {
	header, rest := packet[:20], packet[20:]
	if packet[0]>>4 == 6 {
		header, rest = packet[:40], packet[40:]
	}
	for offset := 0; offset < len(rest); offset += size {
		part := rest[offset:min(offset+size, len(rest))]
		more := uint16(0)
		if offset+size < len(rest) {
			more = 1
		}
		b := bytes.Clone(header)
		if len(header) == 20 {
			binary.BigEndian.PutUint16(b[2:], uint16(20+len(part)))
			binary.BigEndian.PutUint16(b[4:], uint16(id))
			binary.BigEndian.PutUint16(b[6:], more<<13|uint16(offset/8))
			Sum(b)
		} else {
			b[6] = unix.IPPROTO_FRAGMENT
			binary.BigEndian.PutUint16(b[4:], uint16(8+len(part)))
			b = append(b, header[6], 0)
			b = binary.BigEndian.AppendUint16(b, uint16(offset)|more)
			b = binary.BigEndian.AppendUint32(b, id)
		}
		fragments = append(fragments, append(b, part...))
	}
	return fragments
}

// Behind puts destination options before the upper layer of an IPv6 packet, which fill a
// fragment of a size: one that is skipped, with a mark in it (RFC 8200 section 4.2), and padding.
func Behind(packet, mark []byte, size int) []byte {
	options := append([]byte{packet[6], byte(size/8 - 1), 0x1e, byte(len(mark))}, mark...)
	for left := size - len(options); left > 0; left = size - len(options) {
		padding := min(left-2, 255)
		if left-2-padding == 1 {
			padding--
		}
		options = append(append(options, 1, byte(padding)), make([]byte, padding)...)
	}
	b := append(append(bytes.Clone(packet[:40]), options...), packet[40:]...)
	b[6] = unix.IPPROTO_DSTOPTS
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	return b
}
