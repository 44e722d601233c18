package attack_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/stage"
)

// attack is a row of the table.
type attack struct {
	name string
	fill func(*volley)
}

// shot is a frame, or fragments that are one.
type shot struct {
	from   stage.ActorID
	frames func(mark []byte) [][]byte
	// whole is what they are together.
	whole func(mark []byte) []byte
}

// volley is what an attack sends.
type volley struct {
	*scene
	shots []shot
}

// raw sends a frame.
func (v *volley) raw(from stage.ActorID, frame func(mark []byte) []byte) {
	v.shots = append(v.shots, shot{from: from, whole: frame, frames: func(mark []byte) [][]byte { return [][]byte{frame(mark)} }})
}

// post sends letters.
func (v *volley) post(letters ...letter) {
	for _, l := range letters {
		v.raw(l.from, func(mark []byte) []byte { return v.frame(l, mark) })
	}
}

// split sends letters as fragments; cut makes those of a packet.
func (v *volley) split(cut func(packet []byte) [][]byte, letters ...letter) {
	for _, l := range letters {
		v.shots = append(v.shots, shot{
			from: l.from, whole: func(mark []byte) []byte { return v.frame(l, mark) },
			frames: func(mark []byte) (all [][]byte) {
				for _, b := range cut(v.packet(l, mark)) {
					all = append(all, lab.Plain.Around(v.hardware(l), b))
				}
				return all
			},
		})
	}
}

var both = []bool{false, true} // families, by: is IPv6

// around are letters between the isolated pod and everybody, both ways, by each hardware
// address that somebody may take for his own.
func (v *volley) around(l letter) (all []letter) {
	for _, other := range v.cast() {
		if other == stage.Isolated {
			continue
		}
		for _, six := range both {
			l.from, l.src, l.dst = stage.Isolated, v.addr(stage.Isolated, six), v.addr(other, six)
			all = append(all, v.stations(l, other)...)
			if other != stage.TheNode {
				l.from, l.src, l.dst = other, l.dst, l.src
				all = append(all, v.stations(l, stage.Isolated)...)
			}
		}
	}
	return all
}

// stations are a letter to somebody by the node's hardware address, his own, and everybody's.
func (v *volley) stations(l letter, to stage.ActorID) (all []letter) {
	macs := []net.HardwareAddr{v.gateway(l.from), broadcastMAC}
	if to != stage.TheNode {
		macs = append(macs, v.Actors[to].MAC)
	}
	for _, l.to = range macs {
		all = append(all, l)
	}
	return all
}

var attacks = []attack{
	{"ICMP errors about others' flows, from an isolated pod", func(v *volley) { v.errorsAbout(stage.Isolated) }},
	{"ICMP errors about others' flows, from an open pod", func(v *volley) { v.errorsAbout(stage.Neighbour) }},
	{"ICMP errors about pods' flows, from outside, to an isolated pod", func(v *volley) {
		for _, l := range v.around(letter{}) {
			if l.from != stage.Isolated {
				v.post(v.errors(l.from, l.dst, letter{from: l.from, src: l.dst, dst: l.src})...)
			}
		}
	}},
	{"the node's ICMP errors about what others send in an isolated pod's name", func(v *volley) {
		for _, six := range both {
			for _, from := range []stage.ActorID{stage.Neighbour, stage.Outside, stage.Remote} {
				for _, dst := range []netip.Addr{elsewhere[six], v.addr(stage.Remote, six), farPod[six]} {
					v.post(letter{from: from, src: v.addr(stage.Isolated, six), dst: dst, hop: 1})
				}
			}
		}
	}},
	{"VLAN tags: 802.1Q and 802.1ad, single to triple, with and without a VLAN", func(v *volley) { v.wrapped(lab.Tag0, lab.Older) }},
	{"PPPoE, MPLS, SNAP, 802.3, frames in frames", func(v *volley) { v.wrapped(lab.PPPoE, lab.Mistyped) }},
	{"every EtherType", func(v *volley) {
		for kind := 0x600; kind < 0xffff; kind += 97 {
			v.types(uint16(kind))
		}
		v.types(0x0805, 0x0842, 0x22f0, 0x22f3, 0x6003, 0x6558, 0x8035, 0x80f3, 0x8137, 0x8863, 0x8864, 0x8847, 0x8848, 0x888e, 0x88a8, 0x88cc, 0x88e5, 0x88f7, 0x8906, 0x9000, 0x9100)
	}},
	{"fragments: whole, tiny, in disorder, overlapping", fragments},
	{"router messages behind extension headers, in fragments", hidden},
	{"sources of others', from pods", func(v *volley) { v.forged(stage.Isolated); v.forged(stage.Neighbour) }},
	{"pods' and nodes' sources, from outside", func(v *volley) {
		for _, six := range both {
			sources := []netip.Addr{v.addr(stage.Isolated, six), v.addr(stage.Neighbour, six), vacant[six], farPod[six], v.addr(stage.TheNode, six), v.internal(six)}
			for _, src := range sources {
				for _, to := range []stage.ActorID{stage.Isolated, stage.Neighbour, stage.TheNode} {
					v.post(letter{from: stage.Outside, src: src, dst: v.addr(to, six)}, letter{from: stage.Remote, src: src, dst: v.addr(to, six)})
				}
			}
		}
	}},
	{"the tunnel between nodes, from pods and from outside", func(v *volley) {
		for _, from := range []stage.ActorID{stage.Isolated, stage.Neighbour, stage.Outside} {
			for _, six := range both {
				for _, dst := range []netip.Addr{v.internal(six), v.addr(stage.TheNode, six), v.addr(stage.Remote, six)} {
					v.tunnel(from, v.addr(from, six), dst, node.DefaultVXLANPort)
					if pod(from) {
						v.tunnel(from, v.internal(six), dst, node.DefaultVXLANPort)
					}
				}
			}
		}
	}},
	{"the tunnel by a NodePort, on an address that no Node lists", func(v *volley) {
		for _, from := range []stage.ActorID{stage.Neighbour, stage.Outside} {
			v.tunnel(from, v.addr(from, false), unlisted, ownTunnel)
			v.tunnel(from, v.addr(from, false), unlisted, farTunnel)
		}
	}},
	{"the receiver's own pods' sources, through the tunnel", func(v *volley) {
		for _, src := range []stage.ActorID{stage.Isolated, stage.Neighbour} {
			for _, to := range []stage.ActorID{stage.Isolated, stage.Neighbour} {
				v.inTunnel(stage.Remote, v.addr(stage.Remote, false), v.internal(false), node.DefaultVXLANPort, letter{from: stage.Remote, src: v.addr(src, false), dst: v.addr(to, false)})
			}
		}
	}},
	{"loopback addresses, to and from", func(v *volley) {
		for _, from := range []stage.ActorID{stage.Isolated, stage.Neighbour} {
			for _, six := range both {
				for _, port := range []uint16{9478, 9479, serverPort} {
					v.post(letter{from: from, src: v.addr(from, six), dst: loopback[six], port: port})
					for _, dst := range []netip.Addr{v.internal(six), v.addr(stage.TheNode, six), loopback[six]} {
						v.post(letter{from: from, src: loopback[six], dst: dst, port: port})
					}
				}
			}
			v.post(letter{from: from, src: v.addr(from, false), dst: loopService, port: 53})
		}
	}},
	{"source routes and routing headers", routed},
	{"router advertisements, redirects, listener queries", func(v *volley) {
		for _, from := range []stage.ActorID{stage.Isolated, stage.Neighbour} {
			for _, hop := range []uint8{1, 255} {
				for _, kind := range []uint16{130, 134, 137} {
					v.messages(from, policy.ICMPv6, kind, hop)
				}
				v.messages(from, policy.ICMP, 5, hop)
			}
		}
	}},
	{"neighbour discovery and ARP in others' names, every hop limit", discovery},
	{"multicast listener discovery and IGMP", func(v *volley) {
		for _, kind := range []uint16{130, 131, 132, 143} {
			for _, hop := range []uint8{1, 2, 255} {
				v.messages(stage.Isolated, policy.ICMPv6, kind, hop)
			}
		}
		for _, dst := range []netip.Addr{allHosts, netip.MustParseAddr("224.0.0.2"), netip.MustParseAddr("224.0.0.22")} {
			for _, from := range v.senders() {
				v.post(letter{from: from, src: v.addr(from, false), dst: dst, protocol: 2, hop: 1, to: groupMAC(dst)})
			}
		}
	}},
	{"DHCP", func(v *volley) {
		for _, port := range []uint16{67, 68} {
			v.post(letter{from: stage.Isolated, src: unspecified[false], dst: everybody, port: port, srcPort: 135 - port, to: broadcastMAC})
			for _, from := range v.senders() {
				v.post(letter{from: from, src: v.addr(from, false), dst: everybody, port: port, srcPort: 135 - port, to: broadcastMAC})
			}
		}
		for _, port := range []uint16{546, 547} {
			for _, from := range v.senders() {
				dst := netip.MustParseAddr("ff02::1:2")
				v.post(letter{from: from, src: linkLocal(v.Actors[from].MAC), dst: dst, port: port, srcPort: 1093 - port, hop: 1, to: groupMAC(dst)})
			}
		}
	}},
	{"TCP with all flags there are, in the middle of streams, and from both ends at once", func(v *volley) {
		for flags := range 256 {
			v.post(v.around(letter{protocol: policy.TCP, port: 80, srcPort: 80, change: tcpFlags(byte(flags))})...)
		}
	}},
	{"every protocol of IPv4 and IPv6", func(v *volley) {
		for number := range 256 {
			v.post(v.around(letter{protocol: 253, change: numbered(byte(number))})...)
		}
	}},
	{"packets in packets: 6in4, 4in6, IPIP, GRE, ESP; addresses in addresses", encapsulated},
	{"multicast and broadcast, and what is for one to all", func(v *volley) {
		for _, from := range v.senders() {
			for _, dst := range slices.Concat(others4, others6) {
				l := letter{from: from, src: v.addr(from, dst.Is6()), dst: dst, port: 5353, hop: 255}
				for _, l.to = range []net.HardwareAddr{groupMAC(dst), broadcastMAC, v.Actors[stage.Isolated].MAC, v.gateway(from)} {
					v.post(l)
				}
			}
		}
		for last := range byte(16) {
			for _, l := range v.around(letter{}) {
				l.to = net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, last}
				v.post(l)
			}
		}
	}},
	{"flows that begin with what is dropped, and answers to it", func(v *volley) {
		for _, l := range v.around(letter{}) {
			answer := l
			answer.src, answer.dst, answer.port, answer.srcPort = l.dst, l.src, clientPort, serverPort
			answer.to = nil
			if l.from == stage.Isolated {
				answer.from = v.owner(l.dst)
			} else {
				answer.from = stage.Isolated
			}
			v.post(l)
			if answer.from != stage.TheNode {
				v.post(answer)
			}
			v.post(l)
		}
	}},
}

// senders are all that are no node.
func (s *scene) senders() []stage.ActorID {
	return slices.DeleteFunc(s.cast(), func(id stage.ActorID) bool { return id == stage.TheNode })
}

// owner is who has an address.
func (s *scene) owner(a netip.Addr) stage.ActorID {
	for _, id := range s.Present() {
		if s.own(id, a) {
			return id
		}
	}
	return stage.Nobody
}

// errors are ICMP errors of each kind to the sender of a packet.
func (s *scene) errors(from stage.ActorID, to netip.Addr, about letter) (all []letter) {
	for _, kind := range errorKinds {
		all = append(all, s.icmpError(from, s.addr(from, to.Is6()), to, kind, about))
	}
	return all
}

// errorsAbout are ICMP errors of a pod about flows of which it is no end, to both ends, from
// its own address and others'.
func (v *volley) errorsAbout(from stage.ActorID) {
	for _, six := range both {
		for _, f := range v.flows(six) {
			if from == v.owner(f.src) || from == v.owner(f.dst) {
				continue
			}
			back := f
			back.src, back.dst, back.port, back.srcPort = f.dst, f.src, f.srcPort, f.port
			for _, about := range []letter{f, back} {
				for _, l := range v.errors(from, about.src, about) {
					v.post(l)
					for _, l.src = range []netip.Addr{about.dst, v.addr(stage.TheNode, six)} {
						if from == stage.Isolated || v.Mode.Own() { // others' sources are not forbidden to open pods
							v.post(l)
						}
					}
				}
			}
		}
	}
}

// flows begins flows between others than the isolated pod: of an open pod to outside, with
// its own address and masqueraded, and from outside, by a Service; and of the node.
func (v *volley) flows(six bool) []letter {
	v.T.Helper()
	own := v.ownFlow(six)
	all := []letter{
		{from: stage.Neighbour, src: v.addr(stage.Neighbour, six), dst: v.addr(stage.Remote, six), port: serverPort, srcPort: clientPort},
		{from: stage.Neighbour, src: v.addr(stage.Neighbour, six), dst: v.addr(stage.Outside, six), port: serverPort, srcPort: clientPort},
		{from: stage.Outside, src: v.addr(stage.Outside, six), dst: v.addr(stage.Neighbour, six), port: serverPort, srcPort: clientPort + 1},
		{from: stage.Outside, src: v.addr(stage.Outside, six), dst: service[six], port: 53, srcPort: clientPort + 2},
	}
	for _, f := range all {
		v.Send(f.from, v.frame(f, nil))
	}
	return append(all, own)
}

// wrapped are packets in others' wrapping, or with it before them.
func (v *volley) wrapped(first, end lab.Wrap) {
	for w := first; w < end; w++ {
		v.post(v.around(letter{wrap: w})...)
		// From an open pod to others than the isolated one, which may get packets.
		for _, six := range both {
			for _, to := range []stage.ActorID{stage.TheNode, stage.Outside} {
				v.post(letter{from: stage.Neighbour, src: v.addr(stage.Neighbour, six), dst: v.addr(to, six), wrap: w})
			}
		}
	}
}

func (v *volley) types(kinds ...uint16) {
	for _, kind := range kinds {
		if slices.Contains([]uint16{unix.ETH_P_IP, unix.ETH_P_IPV6, unix.ETH_P_ARP}, kind) {
			continue
		}
		for _, from := range v.senders() {
			for _, to := range []net.HardwareAddr{broadcastMAC, v.Actors[stage.Isolated].MAC, v.gateway(from)} {
				v.raw(from, func(mark []byte) []byte {
					return append(binary.BigEndian.AppendUint16(append(bytes.Clone(to), v.Actors[from].MAC...), kind), mark...)
				})
			}
		}
	}
}

// forged are packets of a pod's with others' addresses.
func (v *volley) forged(from stage.ActorID) {
	for _, six := range both {
		sources := []netip.Addr{v.internal(six), vacant[six], farPod[six], elsewhere[six], unspecified[six]}
		sources = append(sources, map[bool][]netip.Addr{false: others4, true: others6}[six]...)
		for _, id := range v.cast() {
			sources = append(sources, v.addr(id, six))
		}
		for _, src := range sources {
			for _, to := range v.cast() {
				if to == from || src == v.addr(from, six) {
					continue
				}
				for _, by := range []net.HardwareAddr{v.Actors[from].MAC, v.gateway(from), broadcastMAC} {
					v.post(letter{from: from, src: src, dst: v.addr(to, six), by: by})
				}
			}
		}
	}
	for _, l := range v.around(letter{by: v.Actors[stage.Neighbour].MAC}) {
		if l.from == stage.Isolated {
			v.post(l)
		}
	}
}

// tunnel sends in the tunnel what another node's pod may send to this node's.
func (v *volley) tunnel(from stage.ActorID, src, dst netip.Addr, port uint16) {
	for _, to := range []stage.ActorID{stage.Isolated, stage.Neighbour} {
		for _, six := range both {
			v.inTunnel(from, src, dst, port, letter{from: stage.Remote, src: farPod[six], dst: v.addr(to, six)})
		}
	}
}

func (v *volley) inTunnel(from stage.ActorID, src, dst netip.Addr, port uint16, inner letter) {
	v.post(letter{from: from, src: src, dst: dst, port: port, with: func(mark []byte) []byte {
		return wrapped(node.VTEPMAC("node-1", false), v.packet(inner, mark))
	}})
	if from == stage.Remote { // which may use the tunnel: what counts is what comes out
		v.shots[len(v.shots)-1].whole = func(mark []byte) []byte { return v.frame(inner, mark) }
	}
}

// messages are ICMP messages to everybody, and to groups.
func (v *volley) messages(from stage.ActorID, protocol policy.Protocol, kind uint16, hop uint8) {
	six := protocol == policy.ICMPv6
	sources, groups := []netip.Addr{v.addr(from, six)}, []netip.Addr{allHosts, everybody}
	if six {
		sources, groups = append(sources, linkLocal(v.Actors[from].MAC), unspecified[true]), []netip.Addr{allNodes, allRouters, solicited(v.addr(stage.Isolated, true)), netip.MustParseAddr("ff02::16")}
	}
	for _, src := range sources {
		l := letter{from: from, src: src, protocol: protocol, port: kind, hop: hop}
		for _, l.dst = range groups {
			l.to = groupMAC(l.dst)
			v.post(l)
		}
		for _, to := range v.cast() {
			if l.dst = v.addr(to, six); to != from {
				v.post(v.stations(l, to)...)
			}
		}
	}
}

func discovery(v *volley) {
	for _, kind := range []uint16{133, 135, 136} {
		for hop := 0; hop < 256; hop += 5 {
			v.messages(stage.Isolated, policy.ICMPv6, kind, uint8(hop))
		}
	}
	for _, from := range v.senders() {
		for _, claimed := range v.cast() {
			if claimed == from {
				continue
			}
			for _, to := range []net.HardwareAddr{broadcastMAC, v.Actors[stage.Isolated].MAC, v.gateway(from)} {
				for operation := range uint16(4) {
					v.raw(from, func(mark []byte) []byte {
						return v.arp(from, to, operation, v.Actors[from].MAC, v.addr(claimed, false), v.addr(stage.Isolated, false), mark)
					})
				}
			}
			l := letter{from: from, src: v.addr(claimed, true), protocol: policy.ICMPv6, port: 136, hop: 255}
			for _, l.dst = range []netip.Addr{allNodes, v.addr(stage.Isolated, true), v.addr(stage.TheNode, true)} {
				l.to = map[bool]net.HardwareAddr{true: groupMAC(l.dst), false: nil}[l.dst.IsMulticast()]
				v.post(l)
			}
		}
	}
}

// perFragment leaves room for the tunnel's headers.
const perFragment = 1360

// fragments are of datagrams between the isolated pod and others.
func fragments(v *volley) {
	id := uint32(1)
	big := func(mark []byte) []byte { return append(make([]byte, 2000), mark...) }
	cuts := []func(packet []byte) [][]byte{
		func(packet []byte) [][]byte { return lab.Cut(packet, perFragment, id) },
		func(packet []byte) [][]byte { return lab.Cut(packet, perFragment, id)[:1] },
		func(packet []byte) [][]byte { return lab.Cut(packet, perFragment, id)[1:] },
		func(packet []byte) [][]byte {
			parts := lab.Cut(packet, perFragment, id)
			slices.Reverse(parts)
			return parts
		},
		func(packet []byte) [][]byte { // the first once more, of another datagram's ports
			parts := lab.Cut(packet, perFragment, id)
			other := bytes.Clone(parts[0])
			other[len(other)-perFragment+3]++
			return append([][]byte{other}, parts...)
		},
	}
	for _, cut := range cuts {
		for _, l := range v.around(letter{with: big}) {
			if !bytes.Equal(l.to, broadcastMAC) {
				v.split(func(packet []byte) [][]byte { id++; return cut(packet) }, l)
			}
		}
	}
	tiny := func(packet []byte) [][]byte { id++; return lab.Cut(packet, 8, id) }
	v.split(tiny, v.around(letter{})...)
}

// hidden are router messages of which no first fragment tells.
func hidden(v *volley) {
	id := uint32(1 << 20)
	for _, from := range []stage.ActorID{stage.Isolated, stage.Neighbour} {
		for _, kind := range []uint16{130, 134, 137} {
			for _, to := range []stage.ActorID{stage.TheNode, stage.Isolated, stage.Neighbour, stage.Outside} {
				if to == from {
					continue
				}
				l := letter{from: from, src: v.addr(from, true), dst: v.addr(to, true), protocol: policy.ICMPv6, port: kind, hop: 255}
				v.split(func(packet []byte) [][]byte {
					id++
					mark := packet[len(packet)-stage.MarkSize:]
					return lab.Cut(lab.Behind(packet, mark, perFragment), perFragment, id)
				}, l)
			}
		}
	}
}

// routed are packets by way of the node, or of a pod, to somebody else.
func routed(v *volley) {
	for _, from := range v.senders() {
		for _, to := range []stage.ActorID{stage.Isolated, stage.Outside} {
			if from == to || from != stage.Isolated && to != stage.Isolated {
				continue
			}
			for _, via := range []netip.Addr{v.addr(stage.TheNode, false), v.internal(false), v.addr(stage.Neighbour, false)} {
				for _, option := range []byte{131, 137, 7} {
					v.post(letter{from: from, src: v.addr(from, false), dst: via, change: routeOption(option, v.addr(to, false))})
				}
			}
			for _, via := range []netip.Addr{v.addr(stage.TheNode, true), v.internal(true), v.addr(stage.Neighbour, true)} {
				for _, kind := range []byte{0, 2, 3, 4} {
					v.post(letter{from: from, src: v.addr(from, true), dst: via, change: routingHeader(kind, v.addr(to, true))})
				}
			}
		}
	}
}

// encapsulated are packets that have a packet to or from the isolated pod in them, for those
// that take them out.
func encapsulated(v *volley) {
	for _, from := range v.senders() {
		for _, outer := range both {
			for _, inner := range both {
				inside := letter{from: stage.Remote, src: farPod[inner], dst: v.addr(stage.Isolated, inner)}
				if from == stage.Isolated {
					inside = letter{from: from, src: v.addr(from, inner), dst: v.addr(stage.Outside, inner)}
				}
				for _, dst := range []netip.Addr{v.addr(stage.TheNode, outer), v.internal(outer), v.addr(stage.Isolated, outer), v.addr(stage.Outside, outer)} {
					if dst == v.addr(from, outer) {
						continue
					}
					for _, protocol := range []byte{4, 41, 47, 50, 94, 97, 98, 137} {
						v.post(letter{
							from: from, src: v.addr(from, outer), dst: dst, protocol: 253, change: numbered(protocol),
							with: func(mark []byte) []byte { return v.packet(inside, mark) },
						})
					}
					for _, port := range []uint16{4789, 6081, 5555, 3544, 4500, 51820} {
						v.post(letter{from: from, src: v.addr(from, outer), dst: dst, port: port, with: func(mark []byte) []byte { return v.packet(inside, mark) }})
					}
				}
			}
		}
		for _, to := range []stage.ActorID{stage.Isolated, stage.Outside} {
			for _, dst := range embedded(v.addr(to, false)) {
				if from != to && (from == stage.Isolated || to == stage.Isolated) {
					v.post(letter{from: from, src: v.addr(from, true), dst: dst})
					for _, src := range embedded(v.addr(from, false)) {
						v.post(letter{from: from, src: src, dst: dst}, letter{from: from, src: src, dst: v.addr(to, true)})
					}
				}
			}
		}
	}
}
