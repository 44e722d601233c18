package paths_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/stage"
)

// eachMode runs a test in a scene of each mode, dual stack, or without -paths of those that
// differ most.
func eachMode(t *testing.T, test func(*scene)) {
	t.Helper()
	modes := stage.Modes
	if !*full {
		modes = slices.DeleteFunc(slices.Clone(modes), func(m stage.Mode) bool {
			return !slices.Contains([]string{"bridge", "chained-bridge", "policy-only-routed"}, m.Name)
		})
	}
	inModes(t, modes, test)
}

// inModes runs it in some.
func inModes(t *testing.T, modes []stage.Mode, test func(*scene)) {
	t.Helper()
	for _, m := range modes {
		t.Run(m.Name, func(t *testing.T) { test(newScene(t, m, stage.Dual)) })
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
	s.T.Helper()
	p := policy.Packet{Src: s.source(f), Dst: s.destination(f), Protocol: policy.UDP, DstPort: f.number}
	packet, err := lab.Craft(p, clientPort, append(make([]byte, 2000), stage.Mark(number)...))
	s.Must(err)
	return packet
}

// TestFragmentsOfOnePod: first fragments of one pod, isolated or not, that wait for others
// in vain leave room for those of others.
func TestFragmentsOfOnePod(t *testing.T) {
	eachMode(t, func(s *scene) {
		for _, class := range []class{udp4, udp6} {
			flood := frame{from: stage.Isolated, to: stage.Outside, class: class, number: serverPort, src: global, dst: global, mac: router}
			var firsts [][]byte
			for id := range uint32(6000) {
				firsts = append(firsts, append(s.headers(flood), lab.Cut(s.datagram(flood, 0), lab.PerFragment, id)[0]...))
			}
			s.Send(stage.Isolated, firsts...)
			s.expectWhole(stage.Neighbour, class, "after 6000 first fragments of the isolated pod's")
		}
	})
}

// moreFragments gives the node 128 MB for fragments, which wait for three seconds.
var moreFragments = map[string]string{
	"net/ipv4/ipfrag_high_thresh": "134217728", "net/ipv4/ipfrag_time": "3",
	"net/netfilter/nf_conntrack_frag6_high_thresh": "134217728", "net/netfilter/nf_conntrack_frag6_timeout": "3",
}

// TestLargeDatagrams: some datagrams of 8 kB pass at once, and many where the node has the
// memory for them.
func TestLargeDatagrams(t *testing.T) {
	all := []stage.Mode{
		{Name: "bridge", CNI: "bridge"}, {Name: "chained-bridge", CNI: "chained", By: "bridge"}, {Name: "chained-routed", CNI: "chained", By: "ptp"},
	}
	for _, m := range all {
		m.Name, m.Sysctls = m.Name+", more memory", moreFragments
		all = append(all, m)
	}
	inModes(t, all, func(s *scene) {
		many := 30
		if s.Mode.Sysctls != nil {
			many = 300
		}
		for _, class := range []class{udp4, udp6} {
			of := frame{from: stage.Neighbour, to: stage.Outside, class: class, number: serverPort, src: global, dst: global, mac: router}
			w := s.watch(slices.Repeat([]frame{of}, many))
			var fragments [][]byte
			for number := range many {
				p := policy.Packet{Src: s.source(of), Dst: s.destination(of), Protocol: policy.UDP, DstPort: of.number}
				packet, err := lab.Craft(p, clientPort, append(make([]byte, 8000), stage.Mark(number)...))
				s.Must(err)
				for _, b := range lab.Cut(packet, lab.PerFragment, uint32(number)) {
					fragments = append(fragments, append(s.headers(of), b...))
				}
			}
			s.Send(stage.Neighbour, fragments...)
			got, err := w.End()
			s.Must(err)
			arrived := 0
			for number := range many {
				arrived += count(got.At(number, stage.Outside))
			}
			if arrived != many {
				s.T.Errorf("%s: of %d datagrams of 8 kB from the %s, %d reach the %s", class, many, stage.Neighbour, arrived, stage.Outside)
			}
		}
	})
}

// TestLargeFragmentsOfOnePod: the same with fragments that say to be cut up by the card, each
// of which takes as much of the node's memory as thirty. Of IPv6 the kernel sends none.
func TestLargeFragmentsOfOnePod(t *testing.T) {
	eachMode(t, func(s *scene) {
		flood := frame{from: stage.Isolated, to: stage.Outside, class: udp4, number: serverPort, src: global, dst: global, mac: router}
		var large [][]byte
		for id := range uint32(200) {
			large = append(large, append(s.headers(flood), lab.Cut(s.segments(flood), 60_000, id)[0]...))
		}
		s.SendLarge(stage.Isolated, large...)
		s.expectWhole(stage.Neighbour, udp4, "after 200 large first fragments of the isolated pod's")
	})
}

// segments are a packet of TCP's that fits one datagram of IP at most.
func (s *scene) segments(f frame) []byte {
	s.T.Helper()
	p := policy.Packet{Src: s.source(f), Dst: s.destination(f), Protocol: policy.TCP, DstPort: f.number}
	packet, err := lab.Craft(p, clientPort, make([]byte, 61_000))
	s.Must(err)
	return packet
}

// expectWhole sends a datagram in fragments, which must arrive outside.
func (s *scene) expectWhole(from stage.ActorID, class class, when string) {
	s.T.Helper()
	of := frame{from: from, to: stage.Outside, class: class, number: serverPort, src: global, dst: global, mac: router}
	w := s.watch([]frame{of})
	var whole [][]byte
	for _, b := range lab.Cut(s.datagram(of, 0), lab.PerFragment, 7) {
		whole = append(whole, append(s.headers(of), b...))
	}
	s.Send(from, whole...)
	got, err := w.End()
	s.Must(err)
	if !got.At(0, stage.Outside) {
		s.T.Errorf("%s: %s, a datagram in fragments from the %s does not reach the %s", class, when, from, stage.Outside)
	}
}

// TestFirstFragmentsTellAll: a router's message is not hidden from the port's rules by
// fragments of which the first has extension headers only (RFC 7112).
func TestFirstFragmentsTellAll(t *testing.T) {
	eachMode(t, func(s *scene) {
		for _, kind := range []uint16{130, 134, 137} {
			f := frame{from: stage.Neighbour, to: stage.TheNode, class: icmp6, number: kind, hop: 255, src: global, dst: global, mac: router}
			packet, err := lab.Craft(policy.Packet{
				Src: s.source(f), Dst: s.destination(f), Protocol: policy.ICMPv6, ICMPType: uint8(kind), HopLimit: f.hop,
			}, 0, stage.Mark(0))
			s.Must(err)
			whole := lab.Behind(packet, stage.Mark(0), lab.PerFragment)
			w := s.watch([]frame{f})
			for _, b := range lab.Cut(whole, lab.PerFragment, uint32(kind)) {
				s.Send(stage.Neighbour, append(s.headers(f), b...))
			}
			got, err := w.End()
			s.Must(err)
			if got.At(0, stage.TheNode) {
				s.T.Errorf("ICMPv6 type %d in fragments from the %s has reached the %s", kind, stage.Neighbour, stage.TheNode)
			}
		}
	})
}

// TestOverlappingFragments: what a first fragment tells of a message, which the port's rules
// have believed, no other fragment changes (RFC 5722).
func TestOverlappingFragments(t *testing.T) {
	eachMode(t, func(s *scene) {
		f := frame{from: stage.Neighbour, to: stage.TheNode, class: icmp6, number: 134, hop: 255, src: global, dst: global, mac: router}
		part := func(kind uint8, offset uint16, more bool) []byte {
			p := policy.Packet{Src: s.source(f), Dst: s.destination(f), Protocol: policy.ICMPv6, ICMPType: kind, HopLimit: 255}
			message, err := lab.Craft(p, 0, append(stage.Mark(0), make([]byte, lab.PerFragment-24-8-stage.MarkSize)...))
			s.Must(err)
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
		s.Send(stage.Neighbour, part(128, 0, true), part(134, 24, false))
		got, err := w.End()
		s.Must(err)
		if got.At(0, stage.TheNode) {
			s.T.Error("fragments that overlap have become a message to the node")
		}
	})
}
