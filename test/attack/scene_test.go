package attack_test

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/stage"
)

const hostGW, vxlan = "host-gw", "vxlan"

// modes are the columns of the table.
var modes = []stage.Mode{
	{Name: "bridge, host-gw", CNI: "bridge", Routing: hostGW}, {Name: "bridge, vxlan", CNI: "bridge", Routing: vxlan},
	{Name: "chained, a bridge", CNI: "chained", By: "bridge"}, {Name: "chained, routed", CNI: "chained", By: "ptp"},
	{Name: "policy-only, a bridge", CNI: "none", By: "bridge"}, {Name: "policy-only, routed", CNI: "none", By: "ptp"},
}

// scene is a stage under attack.
type scene struct {
	*stage.Stage
	// next is the first number that no frame has been marked with: what comes late counts
	// for nobody else.
	next int
}

// The addresses of the host outside, which is on no list, and has a link of its own.
var outsideAddrs = []string{"203.0.113.7", "2001:db8:9::7"}

func newScene(t *testing.T, m stage.Mode) *scene {
	t.Helper()
	s := &scene{Stage: stage.New(t, stage.Options{Mode: m, Families: stage.Dual, Outside: outsideAddrs, Remote: stage.OtherNode})}
	s.Must(s.Node.Do(func() error { return stage.NFT(speaking + s.services()) }))
	for _, setting := range []string{"net/ipv4/conf/all/route_localnet", "net/ipv4/conf/all/accept_source_route", "net/ipv6/conf/all/accept_source_route"} {
		s.Must(s.Node.SetSysctl(setting, "1"))
	}
	// The node reports all errors that it has to, not one a second to each host.
	for _, setting := range []string{"net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"} {
		s.Must(s.Node.SetSysctl(setting, "0"))
	}
	return s
}

// ownPort is where the node itself sends to.
const ownPort = 7777

// speaking lets the node report errors, which may have in them what somebody has sent, have a
// flow of its own, and take out what comes by the tunnel.
const speaking = `
add rule inet reporting output icmp type { destination-unreachable, time-exceeded, parameter-problem } accept
add rule inet reporting output icmpv6 type < echo-request accept
add rule inet reporting output udp dport 7777 accept
insert rule inet reporting input udp dport 8472 accept
`

// The Services, as a proxy has them: of an open pod; of the node's loopback address, by
// mistake; and of the tunnel's ports of both nodes, behind an address that no Node lists.
var (
	service     = map[bool]netip.Addr{false: netip.MustParseAddr("10.96.0.10"), true: netip.MustParseAddr("fd00:96::10")}
	loopService = netip.MustParseAddr("10.96.0.11")
	unlisted    = netip.MustParseAddr("198.51.100.1")
)

const ownTunnel, farTunnel = 30001, 30002

func (s *scene) services() string {
	return fmt.Sprintf(`
table inet services {
	chain pods {
		type nat hook prerouting priority dstnat
		ip daddr %[1]s udp dport 53 dnat ip to %[2]s:%[5]d
		ip6 daddr %[3]s udp dport 53 dnat ip6 to [%[4]s]:%[5]d
		ip daddr %[6]s dnat ip to 127.0.0.1
		ip daddr %[7]s udp dport %[8]d dnat ip to %[10]s:%[12]d
		ip daddr %[7]s udp dport %[9]d dnat ip to %[11]s:%[12]d
	}
	chain away {
		type nat hook postrouting priority srcnat
		ct status dnat ip daddr %[11]s snat ip to %[10]s
	}
}
`, service[false], s.addr(stage.Neighbour, false), service[true], s.addr(stage.Neighbour, true), serverPort, loopService,
		unlisted, ownTunnel, farTunnel, s.internal(false), s.addr(stage.Remote, false), node.DefaultVXLANPort)
}

// ownFlow begins a flow of the node's to the other.
func (s *scene) ownFlow(six bool) letter {
	s.T.Helper()
	l := letter{from: stage.TheNode, src: s.internal(six), dst: s.addr(stage.Remote, six), port: ownPort, srcPort: clientPort}
	s.Must(s.Node.Do(func() error {
		from := net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.src, l.srcPort))
		conn, err := net.DialUDP("udp", from, net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.dst, l.port)))
		if err != nil {
			return err
		}
		_, err = conn.Write([]byte("own"))
		return errors.Join(err, conn.Close())
	}))
	return l
}

// The addresses that somebody may send to or from, beside the actors' own.
var (
	allNodes, allRouters = netip.MustParseAddr("ff02::1"), netip.MustParseAddr("ff02::2")
	allHosts             = netip.MustParseAddr("224.0.0.1")
	everybody            = netip.MustParseAddr("255.255.255.255")
	solicitedNode        = netip.MustParsePrefix("ff02::1:ff00:0/104")
	broadcastMAC         = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	loopback             = map[bool]netip.Addr{false: netip.MustParseAddr("127.0.0.1"), true: netip.IPv6Loopback()}
	unspecified          = map[bool]netip.Addr{false: netip.IPv4Unspecified(), true: netip.IPv6Unspecified()}
	farPod               = map[bool]netip.Addr{false: netip.MustParseAddr("10.244.2.9"), true: netip.MustParseAddr("fd00:10:244:2::9")}
	vacant               = map[bool]netip.Addr{false: netip.MustParseAddr("10.244.1.77"), true: netip.MustParseAddr("fd00:10:244:1::77")}
	elsewhere            = map[bool]netip.Addr{false: netip.MustParseAddr("198.51.100.200"), true: netip.MustParseAddr("2001:db8:ee::1")}
	others4              = []netip.Addr{
		allHosts, netip.MustParseAddr("224.0.0.2"), netip.MustParseAddr("224.0.0.22"), netip.MustParseAddr("224.0.0.251"), netip.MustParseAddr("239.1.1.1"),
		everybody, netip.MustParseAddr("10.244.1.255"), netip.MustParseAddr("169.254.20.10"), netip.MustParseAddr("169.254.7.1"), netip.MustParseAddr("240.0.0.1"), netip.MustParseAddr("0.0.0.9"),
	}
	others6 = []netip.Addr{
		allNodes, allRouters, netip.MustParseAddr("ff02::16"), netip.MustParseAddr("ff02::fb"), netip.MustParseAddr("ff02::1:2"), netip.MustParseAddr("ff05::2"), netip.MustParseAddr("ff01::1"),
		netip.MustParseAddr("ff0e::1"), netip.MustParseAddr("64:ff9b::a00:1"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("fec0::1"),
	}
)

// cast are the actors who send, and to whom. Who joins gets only what is meant for it.
func (s *scene) cast() []stage.ActorID {
	return slices.DeleteFunc(s.Present(), func(id stage.ActorID) bool { return id == stage.Heir })
}

// addr is an actor's address of a family.
func (s *scene) addr(id stage.ActorID, six bool) netip.Addr { return s.Actors[id].Addr[six] }

// internal is the node's InternalIP.
func (s *scene) internal(six bool) netip.Addr { return s.Node.IP(unspecified[six]) }

// linkLocal is the address of IPv6 that an actor's hardware address makes.
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}

// embedded are addresses of IPv6 with one of IPv4 in them: mapped, translated, 6to4, ISATAP.
func embedded(a netip.Addr) []netip.Addr {
	b := a.As4()
	var all []netip.Addr
	for prefix, at := range map[string]int{"::ffff:0:0": 12, "::ffff:0:0:0": 12, "64:ff9b::": 12, "2002::1": 2, "fe80::200:5efe:0:0": 12, "::": 12} {
		x := netip.MustParseAddr(prefix).As16()
		copy(x[at:], b[:])
		all = append(all, netip.AddrFrom16(x))
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

func solicited(a netip.Addr) netip.Addr {
	b, last := solicitedNode.Addr().As16(), a.As16()
	copy(b[13:], last[13:])
	return netip.AddrFrom16(b)
}

// groupMAC is the hardware address of a group, or what it would be of another address
// (RFC 1112, RFC 2464 section 7).
func groupMAC(a netip.Addr) net.HardwareAddr {
	if a.Is4() {
		b := a.As4()
		return net.HardwareAddr{0x01, 0x00, 0x5e, b[1] & 0x7f, b[2], b[3]}
	}
	b := a.As16()
	return net.HardwareAddr{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// gateway is the hardware address of the node's side of an actor's link.
func (s *scene) gateway(id stage.ActorID) net.HardwareAddr {
	return s.Actors[id].Device.Attrs().HardwareAddr
}

// letter is a packet in a frame, as somebody sends it; what is not said is as it would be if
// the sender were honest.
type letter struct {
	from     stage.ActorID
	src, dst netip.Addr
	protocol policy.Protocol
	port     uint16 // of ICMP, the type
	srcPort  uint16
	hop      uint8
	by, to   net.HardwareAddr
	wrap     lab.Wrap
	// with makes the payload of the mark.
	with func(mark []byte) []byte
	// change changes the packet.
	change func(packet []byte) []byte
}

const clientPort, serverPort = 4321, 1000

// packet is the letter's packet.
func (s *scene) packet(l letter, mark []byte) []byte {
	if l.with != nil {
		mark = l.with(mark)
	}
	if l.protocol == 0 {
		l.protocol, l.port = policy.UDP, cmp.Or(l.port, serverPort)
	}
	p := policy.Packet{Src: unmapped(l.src), Dst: unmapped(l.dst), Protocol: l.protocol, DstPort: l.port, ICMPType: uint8(l.port), HopLimit: l.hop}
	if l.protocol == policy.ICMP || l.protocol == policy.ICMPv6 {
		p.DstPort = 0
	}
	b, err := lab.Craft(p, cmp.Or(l.srcPort, clientPort), mark)
	s.Must(err)
	if l.src.Is4() {
		lab.Sum(b[:20])
	} else { // of the same checksum, modulo 65535
		copy(b[8:], l.src.AsSlice())
		copy(b[24:], l.dst.AsSlice())
	}
	if l.change != nil {
		b = l.change(b)
	}
	return b
}

// unmapped is an address of IPv6 that lab.Craft does not take for one of IPv4: without the
// 65535 that maps it.
func unmapped(a netip.Addr) netip.Addr {
	if !a.Is4In6() {
		return a
	}
	b := a.As16()
	b[10], b[11] = 0, 0
	return netip.AddrFrom16(b)
}

// hardware are the addresses of the letter's frame.
func (s *scene) hardware(l letter) []byte {
	if l.by == nil {
		l.by = s.Actors[l.from].MAC
	}
	if l.to == nil {
		l.to = s.gateway(l.from)
	}
	return append(bytes.Clone(l.to), l.by...)
}

// frame is the letter as it is sent.
func (s *scene) frame(l letter, mark []byte) []byte {
	return l.wrap.Around(s.hardware(l), s.packet(l, mark))
}

// icmpError is an ICMP error from somewhere about a packet; kind is by family, of IPv4 first.
func (s *scene) icmpError(from stage.ActorID, src, dst netip.Addr, kind [2]uint16, about letter) letter {
	l := letter{from: from, src: src, dst: dst, protocol: policy.ICMP, port: kind[0]}
	if src.Is6() {
		l.protocol, l.port = policy.ICMPv6, kind[1]
	}
	l.with = func(mark []byte) []byte { return s.packet(about, mark) }
	return l
}

// errorKinds are ICMP's errors, and ICMPv6's: unreachable, too big, expired, and a problem of the packet's.
var errorKinds = [][2]uint16{{3, 1}, {3, 2}, {11, 3}, {12, 4}}

// arp is a frame of ARP, with a mark behind it.
func (s *scene) arp(from stage.ActorID, to net.HardwareAddr, operation uint16, mac net.HardwareAddr, sender, target netip.Addr, mark []byte) []byte {
	b := append(bytes.Clone(to), s.Actors[from].MAC...)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_ARP)
	b = append(b, 0, 1, 8, 0, 6, 4, byte(operation>>8), byte(operation))
	b = append(append(b, mac...), sender.AsSlice()...)
	b = append(append(b, make([]byte, 6)...), target.AsSlice()...)
	return append(b, mark...)
}

// wrapped is what a node puts into a datagram of the tunnel (RFC 7348 section 5).
func wrapped(to net.HardwareAddr, inner []byte) []byte {
	const header = "\x08\x00\x00\x00" + "\x00\x00\x01\x00" // there is a VNI; it is 1
	b := append([]byte(header), to...)
	return lab.Plain.Around(append(b, 2, 0, 0, 0, 0, 9), inner)
}
