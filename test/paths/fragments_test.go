package paths_test

import (
	"bytes"
	"encoding/binary"
	"os/exec"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

// eachMode runs a test in a scene of each mode, dual stack.
func eachMode(t *testing.T, test func(*scene)) {
	t.Helper()
	inModes(t, modes, test)
}

// inModes runs it in some.
func inModes(t *testing.T, modes []mode, test func(*scene)) {
	t.Helper()
	if err := lab.Check(); err != nil {
		t.Skipf("skipped: %v", err)
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skipf("skipped: the node's receiver is a rule of nft's: %v", err)
	}
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			if !m.own() && errReference != nil {
				t.Skipf("skipped: %v", errReference)
			}
			if m.vlan > 0 {
				if err := filtersVLANs(); err != nil {
					t.Skipf("skipped: no bridge that filters VLANs can be made here, which takes CONFIG_BRIDGE_VLAN_FILTERING: %v", err)
				}
			}
			test(newScene(t, m, dual))
		})
	}
}

// headers are the hardware addresses and the type of a frame to the node.
func (s *scene) headers(f frame) []byte {
	b := append(bytes.Clone(s.stationMAC(f, s.destination(f))), s.senderMAC(f)...)
	if f.class.is6() {
		return binary.BigEndian.AppendUint16(b, unix.ETH_P_IPV6)
	}
	return binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
}

// datagram is one of UDP that fits no link, with the mark at its end.
func (s *scene) datagram(f frame, number int) []byte {
	s.t.Helper()
	p := policy.Packet{Src: s.source(f), Dst: s.destination(f), Protocol: policy.UDP, DstPort: f.number}
	packet, err := lab.Craft(p, clientPort, append(make([]byte, 2000), mark(number)...))
	s.must(err)
	return packet
}

// perFragment is how many octets of a datagram are in each fragment but the last.
const perFragment = 1440

// split makes fragments of a packet, with an identification of their own.
func split(packet []byte, id uint32) [][]byte { return splitBy(packet, id, perFragment) }

func splitBy(packet []byte, id uint32, perFragment int) (fragments [][]byte) {
	header, rest := packet[:20], packet[20:]
	if packet[0]>>4 == 6 {
		header, rest = packet[:40], packet[40:]
	}
	for offset := 0; offset < len(rest); offset += perFragment {
		part := rest[offset:min(offset+perFragment, len(rest))]
		more := uint16(0)
		if offset+perFragment < len(rest) {
			more = 1
		}
		b := bytes.Clone(header)
		if len(header) == 20 {
			binary.BigEndian.PutUint16(b[2:], uint16(20+len(part)))
			binary.BigEndian.PutUint16(b[4:], uint16(id))
			binary.BigEndian.PutUint16(b[6:], more<<13|uint16(offset/8))
			binary.BigEndian.PutUint16(b[10:], 0)
			sum(b)
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

// sendRaw sends frames of somebody's.
func (s *scene) sendRaw(from actorID, frames ...[]byte) { s.t.Helper(); s.sendBy(from, 0, frames) }

// sendLarge sends the isolated pod's frames of IPv4 that the card is to cut up, with a header
// that says so (linux/virtio_net.h): they may be larger than any on the link.
func (s *scene) sendLarge(frames ...[]byte) {
	s.t.Helper()
	const transport = 14 + 20
	header := []byte{unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, unix.VIRTIO_NET_HDR_GSO_TCPV4}
	for _, n := range []uint16{transport + 20, perFragment, transport, 16} { // headers, each part, where the checksum begins and is
		header = binary.NativeEndian.AppendUint16(header, n)
	}
	var all [][]byte
	for _, b := range frames {
		all = append(all, append(bytes.Clone(header), b...))
	}
	s.sendBy(isolated, 1, all)
}

func (s *scene) sendBy(from actorID, withHeader int, frames [][]byte) {
	s.t.Helper()
	s.must(s.actors[from].host.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, withHeader); err != nil {
			return err
		}
		for _, b := range frames {
			if err := send(fd, s.actors[from].eth0, b); err != nil {
				return err
			}
		}
		return nil
	}))
}

// TestFragmentsOfOnePod: first fragments of one pod, isolated or not, that wait for others
// in vain leave room for those of others.
func TestFragmentsOfOnePod(t *testing.T) {
	eachMode(t, func(s *scene) {
		for _, class := range []class{udp4, udp6} {
			flood := frame{from: isolated, to: outside, class: class, number: serverPort, src: global, dst: global, mac: router}
			var firsts [][]byte
			for id := range uint32(6000) {
				firsts = append(firsts, append(s.headers(flood), split(s.datagram(flood, 0), id)[0]...))
			}
			s.sendRaw(isolated, firsts...)
			s.expectWhole(neighbour, class, "after 6000 first fragments of the isolated pod's")
		}
	})
}

// moreFragments gives the node 128 MB for fragments, which wait for three seconds.
func (s *scene) moreFragments() {
	s.t.Helper()
	for name, value := range map[string]string{
		"net/ipv4/ipfrag_high_thresh": "134217728", "net/ipv4/ipfrag_time": "3",
		"net/netfilter/nf_conntrack_frag6_high_thresh": "134217728", "net/netfilter/nf_conntrack_frag6_timeout": "3",
	} {
		s.must(s.node.SetSysctl(name, value))
	}
}

// TestLargeDatagrams: some datagrams of 8 kB pass at once, and many where the node has the
// memory for them.
func TestLargeDatagrams(t *testing.T) {
	all := []mode{
		{name: "bridge", cni: "bridge"}, {name: "chained-bridge", cni: "chained", by: "bridge"}, {name: "chained-routed", cni: "chained", by: "ptp"},
	}
	for _, m := range all {
		m.name, m.fragments = m.name+", more memory", true
		all = append(all, m)
	}
	inModes(t, all, func(s *scene) {
		many := 30
		if s.mode.fragments {
			many = 300
		}
		for _, class := range []class{udp4, udp6} {
			of := frame{from: neighbour, to: outside, class: class, number: serverPort, src: global, dst: global, mac: router}
			w := s.watch(slices.Repeat([]frame{of}, many))
			var fragments [][]byte
			for number := range many {
				p := policy.Packet{Src: s.source(of), Dst: s.destination(of), Protocol: policy.UDP, DstPort: of.number}
				packet, err := lab.Craft(p, clientPort, append(make([]byte, 8000), mark(number)...))
				s.must(err)
				for _, b := range split(packet, uint32(number)) {
					fragments = append(fragments, append(s.headers(of), b...))
				}
			}
			s.sendRaw(neighbour, fragments...)
			got, err := w.end()
			s.must(err)
			arrived := 0
			for number := range many {
				arrived += count(got.at(number, outside))
			}
			if arrived != many {
				s.t.Errorf("%s: of %d datagrams of 8 kB from the %s, %d reach the %s", class, many, neighbour, arrived, outside)
			}
		}
	})
}

// TestLargeFragmentsOfOnePod: the same with fragments that say to be cut up by the card, each
// of which takes as much of the node's memory as thirty. Of IPv6 the kernel sends none.
func TestLargeFragmentsOfOnePod(t *testing.T) {
	eachMode(t, func(s *scene) {
		flood := frame{from: isolated, to: outside, class: udp4, number: serverPort, src: global, dst: global, mac: router}
		var large [][]byte
		for id := range uint32(200) {
			large = append(large, append(s.headers(flood), splitBy(s.segments(flood), id, 60_000)[0]...))
		}
		s.sendLarge(large...)
		s.expectWhole(neighbour, udp4, "after 200 large first fragments of the isolated pod's")
	})
}

// segments are a packet of TCP's that fits one datagram of IP at most.
func (s *scene) segments(f frame) []byte {
	s.t.Helper()
	p := policy.Packet{Src: s.source(f), Dst: s.destination(f), Protocol: policy.TCP, DstPort: f.number}
	packet, err := lab.Craft(p, clientPort, make([]byte, 61_000))
	s.must(err)
	return packet
}

// expectWhole sends a datagram in fragments, which must arrive outside.
func (s *scene) expectWhole(from actorID, class class, when string) {
	s.t.Helper()
	of := frame{from: from, to: outside, class: class, number: serverPort, src: global, dst: global, mac: router}
	w := s.watch([]frame{of})
	var whole [][]byte
	for _, b := range split(s.datagram(of, 0), 7) {
		whole = append(whole, append(s.headers(of), b...))
	}
	s.sendRaw(from, whole...)
	got, err := w.end()
	s.must(err)
	if !got.at(0, outside) {
		s.t.Errorf("%s: %s, a datagram in fragments from the %s does not reach the %s", class, when, from, outside)
	}
}

// TestFirstFragmentsTellAll: a router's message is not hidden from the port's rules by
// fragments of which the first has extension headers only (RFC 7112).
func TestFirstFragmentsTellAll(t *testing.T) {
	eachMode(t, func(s *scene) {
		for _, kind := range []uint16{130, 134, 137} {
			f := frame{from: neighbour, to: theNode, class: icmp6, number: kind, hop: 255, src: global, dst: global, mac: router}
			packet, err := lab.Craft(policy.Packet{
				Src: s.source(f), Dst: s.destination(f), Protocol: policy.ICMPv6, ICMPType: uint8(kind), HopLimit: f.hop,
			}, 0, mark(0))
			s.must(err)
			// Destination options fill the first fragment: one that is skipped, with the
			// mark in it (RFC 8200 section 4.2), and padding.
			options := append([]byte{unix.IPPROTO_ICMPV6, perFragment/8 - 1, 0x1e, markSize}, mark(0)...)
			for left := perFragment - len(options); left > 0; left = perFragment - len(options) {
				size := min(left-2, 255)
				if left-2-size == 1 {
					size--
				}
				options = append(append(options, 1, byte(size)), make([]byte, size)...)
			}
			whole := append(bytes.Clone(packet[:40]), options...)
			whole[6] = unix.IPPROTO_DSTOPTS
			whole = append(whole, packet[40:]...)
			w := s.watch([]frame{f})
			for _, b := range split(whole, uint32(kind)) {
				s.sendRaw(neighbour, append(s.headers(f), b...))
			}
			got, err := w.end()
			s.must(err)
			if got.at(0, theNode) {
				s.t.Errorf("ICMPv6 type %d in fragments from the %s has reached the %s", kind, neighbour, theNode)
			}
		}
	})
}

// TestOverlappingFragments: what a first fragment tells of a message, which the port's rules
// have believed, no other fragment changes (RFC 5722).
func TestOverlappingFragments(t *testing.T) {
	eachMode(t, func(s *scene) {
		f := frame{from: neighbour, to: theNode, class: icmp6, number: 134, hop: 255, src: global, dst: global, mac: router}
		part := func(kind uint8, offset uint16, more bool) []byte {
			p := policy.Packet{Src: s.source(f), Dst: s.destination(f), Protocol: policy.ICMPv6, ICMPType: kind, HopLimit: 255}
			message, err := lab.Craft(p, 0, append(mark(0), make([]byte, perFragment-24-8-markSize)...))
			s.must(err)
			flags := offset
			if more {
				flags |= 1
			}
			b := append(s.headers(f), message[:40]...)
			b[14+6] = unix.IPPROTO_FRAGMENT
			header := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16([]byte{unix.IPPROTO_DSTOPTS, 0}, flags), uint32(offset)+9)
			binary.BigEndian.PutUint32(header[4:], 9) // the same datagram
			b = append(b, header...)
			if offset == 0 { // 24 octets of options
				b = append(append(b, unix.IPPROTO_ICMPV6, 2, 1, 20), make([]byte, 20)...)
			}
			b = append(b, message[40:]...)
			binary.BigEndian.PutUint16(b[14+4:], uint16(len(b)-14-40))
			return b
		}
		w := s.watch([]frame{f})
		s.sendRaw(neighbour, part(128, 0, true), part(134, 24, false))
		got, err := w.end()
		s.must(err)
		if got.at(0, theNode) {
			s.t.Error("fragments that overlap have become a message to the node")
		}
	})
}
