package paths_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

// class is what a frame's number is of.
type class uint8

const (
	icmp4     class = iota // the type
	icmp6                  // the type
	protocol4              // the IP protocol
	protocol6              // the IP protocol
	udp4                   // the destination port
	udp6                   // the destination port
	answer4                // the destination port, which is the source port of udp4
	answer6                // the destination port, which is the source port of udp6
	arp                    // the operation
	ethertype              // the frame's own type
)

func (c class) String() string {
	return [...]string{"ICMP type", "ICMPv6 type", "IPv4 protocol", "IPv6 protocol", "UDP port", "UDP port (IPv6)", "UDP answer to port", "UDP answer to port (IPv6)", "ARP operation", "EtherType"}[c]
}

// is6 tells IPv6 from all others.
func (c class) is6() bool { return c == icmp6 || c == protocol6 || c == udp6 || c == answer6 }

// wrap is what an IP packet is inside of, or has between its header and the rest.
type wrap uint8

const (
	plain wrap = iota
	tag0       // VLAN tags, 802.1Q or 802.1ad, with priority only (0) or a VLAN
	tag1
	service0
	service1
	stacked0
	stacked1
	double0 // 802.1Q twice
	triple0
	priority1 // 802.1Q with priority only, and a VLAN inside
	older     // a tag from before 802.1ad, which no stack knows
	pppoe
	tagPPPoE // in a tag with priority only
	mpls
	mplsGroup
	snap
	llc      // an 802.3 frame with the SAP of IP
	bridged  // transparent Ethernet bridging: a frame in a frame
	mistyped // the EtherType of the other family
	hopByHop // IPv6 extension headers from here on
	routing
	fragment
	destination
)

var wrapNames = [...]string{
	"", "802.1Q tag 0", "802.1Q tag 1", "802.1ad tag 0", "802.1ad tag 1", "802.1ad and 802.1Q tags 0", "802.1ad and 802.1Q tags 1",
	"two 802.1Q tags 0", "802.1ad and two 802.1Q tags 0", "802.1Q tags 0 and 1", "tag 0x9100", "PPPoE", "PPPoE in 802.1Q tag 0",
	"MPLS", "MPLS multicast", "SNAP", "802.3 of SAP 6", "a frame in a frame", "the other family's EtherType", "a hop-by-hop header", "a routing header", "a fragment header", "a destination options header",
}

// untyped says whether the frame is neither IP nor ARP for those who receive it. (A tag
// with no VLAN is taken off.)
func (f frame) untyped() bool {
	if w := f.tagless().wrap; w == plain || w == mistyped {
		return f.class == ethertype
	}
	return f.wrap < mistyped
}

// scope is which address of somebody's, or of whom.
type scope uint8

const (
	nowhere scope = iota
	global
	internal // the node's InternalIP
	linkLocal
	unspecified
	allNodes
	allRouters
	listeners
	solicited
	multicastDNS
	site
	broadcast
	subnetBroadcast
	loopback  // the node's 127.0.0.1
	remote    // the address of a pod of another node, which is nobody here
	pretended // the global address of actor scope - pretended
)

// tagless is the frame as the stack of who receives it has it: without tags that name no
// VLAN.
func (f frame) tagless() frame {
	switch f.wrap {
	case tag0, service0, stacked0, double0, triple0:
		f.wrap = plain
	case tagPPPoE:
		f.wrap = pppoe
	case priority1:
		f.wrap = tag1
	}
	return f
}

// groups are the addresses of the scopes that are the same for everybody.
var groups = map[bool]map[scope]netip.Addr{
	true: {
		unspecified: netip.IPv6Unspecified(), allNodes: netip.MustParseAddr("ff02::1"), allRouters: netip.MustParseAddr("ff02::2"),
		listeners: netip.MustParseAddr("ff02::16"), remote: netip.MustParseAddr("fd00:10:244:2::9"), multicastDNS: netip.MustParseAddr("ff02::fb"), site: netip.MustParseAddr("ff05::2"),
	},
	false: {
		unspecified: netip.IPv4Unspecified(), allNodes: netip.MustParseAddr("224.0.0.1"), allRouters: netip.MustParseAddr("224.0.0.2"),
		listeners: netip.MustParseAddr("224.0.0.22"), multicastDNS: netip.MustParseAddr("224.0.0.251"), site: netip.MustParseAddr("239.1.1.1"),
		loopback: netip.MustParseAddr("127.0.0.1"), broadcast: netip.MustParseAddr("255.255.255.255"), subnetBroadcast: netip.MustParseAddr("10.244.1.255"),
		remote: netip.MustParseAddr("10.244.2.9"),
	},
}

// unicast says whether somebody has the address.
func (s scope) unicast() bool { return s == global || s == internal || s == linkLocal }

func (s scope) name(six bool) string {
	switch s {
	case nowhere:
		return "none"
	case global:
		return "global"
	case internal:
		return "InternalIP"
	case linkLocal:
		return "link-local"
	case solicited:
		return "solicited-node"
	case remote:
		return "another node's pod's"
	}
	if s >= pretended {
		return "the " + actorNames[s-pretended] + "'s"
	}
	return groups[six][s].String()
}

// station is the hardware address that a frame goes to.
type station uint8

const (
	router    station = iota // the next hop: the node
	theirs                   // the receiver's own
	everybody                // broadcast
	group                    // that of the IP address, or of all nodes
	reserved  = 16           // 01:80:c2:00:00:0X
)

func (s station) String() string {
	if s >= reserved {
		return reservedMAC(s).String()
	}
	return [...]string{"the node's", "the receiver's", "broadcast", "multicast"}[s]
}

func reservedMAC(s station) net.HardwareAddr {
	return net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, byte(s - reserved)}
}

// frame is one to be sent, without the addresses that scene and sender make of it.
type frame struct {
	from, to actorID // to: who is meant by addresses that somebody has
	class    class
	wrap     wrap
	number   uint16
	hop      uint8
	src, dst scope
	mac      station
}

// The ports that most of the frames with ports are between.
const clientPort, serverPort = 4321, 1000

// The length of a mark lets neighbour discovery have it in an option.
const (
	markSize = 14
	magic    = "pF paths"
)

func mark(number int) []byte {
	m := append(make([]byte, 0, markSize), magic...)
	return append(binary.BigEndian.AppendUint16(m, uint16(number>>32)), byte(number>>24), byte(number>>16), byte(number>>8), byte(number))
}

// readMark returns the number of the first mark in b, and what is behind it.
func readMark(b []byte) (number int, rest []byte, found bool) {
	i := bytes.Index(b, []byte(magic))
	if i < 0 || len(b) < i+markSize {
		return 0, nil, false
	}
	rest = b[i+len(magic):]
	return int(binary.BigEndian.Uint16(rest))<<32 | int(binary.BigEndian.Uint32(rest[2:])), rest[6:], true
}

// octets are the frame as it is sent, with the mark at its end.
func (s *scene) octets(f frame, number int) ([]byte, error) {
	src, dst := s.source(f), s.destination(f)
	b := append(bytes.Clone(s.stationMAC(f, dst)), s.senderMAC(f)...)
	switch f.class {
	case arp:
		b = append(binary.BigEndian.AppendUint16(b, unix.ETH_P_ARP), s.arpMessage(f, src, dst)...)
		return append(b, mark(number)...), nil
	case ethertype:
		if f.number < 0x600 { // a length: an 802.3 frame with the SAP f.number
			b = binary.BigEndian.AppendUint16(b, 3+markSize)
			return append(append(b, byte(f.number), byte(f.number), 3), mark(number)...), nil
		}
		return append(binary.BigEndian.AppendUint16(b, f.number), mark(number)...), nil
	}
	packet, err := f.packet(src, dst, number)
	if err != nil {
		return nil, fmt.Errorf("%+v: %w", f, err)
	}
	return f.wrapped(b, packet), nil
}

// arpMessage asks for an address, or says whose it is (RFC 826).
func (s *scene) arpMessage(f frame, sender, target netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, byte(f.number >> 8), byte(f.number)}
	b = append(append(b, s.senderMAC(f)...), sender.AsSlice()...)
	return append(append(b, make([]byte, 6)...), target.AsSlice()...)
}

// packet is the IP packet inside.
func (f frame) packet(src, dst netip.Addr, number int) ([]byte, error) {
	p := policy.Packet{Src: src, Dst: dst, HopLimit: f.hop}
	switch f.class {
	case icmp4:
		p.Protocol, p.ICMPType = policy.ICMP, uint8(f.number)
	case icmp6:
		p.Protocol, p.ICMPType = policy.ICMPv6, uint8(f.number)
	case udp4, udp6, answer4, answer6:
		p.Protocol, p.DstPort = policy.UDP, f.number
	default:
		p.Protocol, p.DstPort = policy.Protocol(f.number), serverPort
		if f.class == protocol6 && extensions[p.Protocol] != nil {
			p.Protocol = policy.UDP
		}
		p.ICMPType = 128 // an echo request, of ICMPv6
		if f.class == protocol4 {
			p.ICMPType = 8
			if p.Protocol == policy.ICMPv6 { // no such thing: some octets
				p.Protocol = 253
			}
		} else if p.Protocol == policy.ICMP {
			p.Protocol = 253
		}
	}
	srcPort := uint16(clientPort)
	if f.class == answer4 || f.class == answer6 {
		srcPort = serverPort
	}
	b, err := lab.Craft(p, srcPort, mark(number))
	if err != nil {
		return nil, err
	}
	if dst.Is4() {
		b[9] = f.protocol(p)
		sum(b[:20])
		return b, nil
	}
	if f.class == protocol6 {
		if extension := extensions[policy.Protocol(f.number)]; extension != nil {
			return extended(b, f.number, extension), nil
		}
		b[6] = byte(f.number)
	}
	if number := wrapExtension[f.wrap]; f.wrap >= hopByHop {
		return extended(b, number, extensions[policy.Protocol(number)]), nil
	}
	return b, nil
}

func (f frame) protocol(p policy.Packet) byte {
	if f.class == protocol4 {
		return byte(f.number)
	}
	return byte(p.Protocol)
}

// sum fills an IPv4 header's checksum in.
func sum(header []byte) {
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum))
}

// extensions are the IPv6 extension headers, valid but for the first octet, the header
// that follows: a router alert (RFC 2711); a routing header that has nowhere left to go;
// a datagram in one fragment; an authentication header; padding.
var extensions = map[policy.Protocol][]byte{
	0:  {0, 0, 5, 2, 0, 0, 1, 0},
	43: {0, 0, 253, 0, 0, 0, 0, 0},
	44: {0, 0, 0, 0, 0, 0, 0, 1},
	51: {0, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0},
	60: {0, 0, 1, 4, 0, 0, 0, 0},
}

var wrapExtension = [...]uint16{hopByHop: 0, routing: 43, fragment: 44, destination: 60}

// extended puts an extension header between an IPv6 header and what follows.
func extended(packet []byte, number uint16, extension []byte) []byte {
	b := append(bytes.Clone(packet[:40]), extension...)
	b[40], b[6] = packet[6], byte(number)
	binary.BigEndian.PutUint16(b[4:], uint16(len(packet)-40+len(extension)))
	return append(b, packet[40:]...)
}

// wrapped is the frame around a packet; b are its hardware addresses.
func (f frame) wrapped(b, packet []byte) []byte {
	kind, other, ppp := uint16(unix.ETH_P_IP), uint16(unix.ETH_P_IPV6), uint16(0x21)
	if f.class.is6() {
		kind, other, ppp = other, kind, 0x57
	}
	before := func(numbers ...uint16) {
		for _, n := range numbers {
			b = binary.BigEndian.AppendUint16(b, n)
		}
	}
	switch f.wrap {
	case tag0, tag1:
		before(unix.ETH_P_8021Q, uint16(f.wrap-tag0), kind)
	case service0, service1:
		before(unix.ETH_P_8021AD, uint16(f.wrap-service0), kind)
	case stacked0, stacked1:
		before(unix.ETH_P_8021AD, uint16(f.wrap-stacked0), unix.ETH_P_8021Q, uint16(f.wrap-stacked0), kind)
	case double0:
		before(unix.ETH_P_8021Q, 0, unix.ETH_P_8021Q, 0, kind)
	case triple0:
		before(unix.ETH_P_8021AD, 0, unix.ETH_P_8021Q, 0, unix.ETH_P_8021Q, 0, kind)
	case priority1:
		before(unix.ETH_P_8021Q, 0, unix.ETH_P_8021Q, 1, kind)
	case older:
		before(unix.ETH_P_QINQ1, 0, kind)
	case pppoe:
		before(unix.ETH_P_PPP_SES, 0x1100, 1, uint16(2+len(packet)), ppp)
	case tagPPPoE:
		before(unix.ETH_P_8021Q, 0, unix.ETH_P_PPP_SES, 0x1100, 1, uint16(2+len(packet)), ppp)
	case mpls:
		before(unix.ETH_P_MPLS_UC, 1, 0x0140) // label 16, bottom of the stack
	case mplsGroup:
		before(unix.ETH_P_MPLS_MC, 1, 0x0140)
	case llc:
		b = append(binary.BigEndian.AppendUint16(b, uint16(3+len(packet))), 6, 6, 3)
	case bridged:
		inside := bytes.Clone(b)
		before(unix.ETH_P_TEB)
		b = append(b, inside...)
		before(kind)
	case snap:
		before(uint16(8+len(packet)), 0xaaaa, 0x0300, 0, kind)
	case mistyped:
		before(other)
	default:
		before(kind)
	}
	return append(b, packet...)
}
