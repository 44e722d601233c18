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
	"github.com/podfence/podfence/test/stage"
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

// untyped says whether the frame is neither IP nor ARP for those who receive it. (A tag
// with no VLAN is taken off.)
func (f frame) untyped() bool {
	if w := f.tagless().wrap; w == lab.Plain || w == lab.Mistyped {
		return f.class == ethertype
	}
	return f.wrap < lab.Mistyped
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
	case lab.Tag0, lab.Service0, lab.Stacked0, lab.Double0, lab.Triple0:
		f.wrap = lab.Plain
	case lab.TagPPPoE:
		f.wrap = lab.PPPoE
	case lab.Priority5:
		f.wrap = lab.Tag5
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
		return "the " + stage.ActorID(s-pretended).String() + "'s"
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
	from, to stage.ActorID // to: who is meant by addresses that somebody has
	class    class
	wrap     lab.Wrap
	number   uint16
	hop      uint8
	src, dst scope
	mac      station
}

// The ports that most of the frames with ports are between.
const clientPort, serverPort = 4321, 1000

// octets are the frame as it is sent, with the mark at its end.
func (s *scene) octets(f frame, number int) ([]byte, error) {
	src, dst := s.source(f), s.destination(f)
	b := append(bytes.Clone(s.stationMAC(f, dst)), s.senderMAC(f)...)
	switch f.class {
	case arp:
		b = append(binary.BigEndian.AppendUint16(b, unix.ETH_P_ARP), s.arpMessage(f, src, dst)...)
		return append(b, stage.Mark(number)...), nil
	case ethertype:
		if f.number < 0x600 { // a length: an 802.3 frame with the SAP f.number
			b = binary.BigEndian.AppendUint16(b, 3+stage.MarkSize)
			return append(append(b, byte(f.number), byte(f.number), 3), stage.Mark(number)...), nil
		}
		return append(binary.BigEndian.AppendUint16(b, f.number), stage.Mark(number)...), nil
	}
	packet, err := f.packet(src, dst, number)
	if err != nil {
		return nil, fmt.Errorf("%+v: %w", f, err)
	}
	return f.wrap.Around(b, packet), nil
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
		if f.class == protocol6 && lab.Extensions[p.Protocol] != nil {
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
	b, err := lab.Craft(p, srcPort, stage.Mark(number))
	if err != nil {
		return nil, err
	}
	if dst.Is4() {
		b[9] = f.protocol(p)
		lab.Sum(b[:20])
		return b, nil
	}
	if f.class == protocol6 {
		if extension := lab.Extensions[policy.Protocol(f.number)]; extension != nil {
			return lab.Extended(b, f.number, extension), nil
		}
		b[6] = byte(f.number)
	}
	if number := wrapExtension[f.wrap]; f.wrap >= lab.HopByHop {
		return lab.Extended(b, number, lab.Extensions[policy.Protocol(number)]), nil
	}
	return b, nil
}

func (f frame) protocol(p policy.Packet) byte {
	if f.class == protocol4 {
		return byte(f.number)
	}
	return byte(p.Protocol)
}

var wrapExtension = [...]uint16{lab.HopByHop: 0, lab.Routing: 43, lab.Fragment: 44, lab.Destination: 60}
