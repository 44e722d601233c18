package paths_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/stage"
)

// talking lets the node answer, and not only be told, as quickly as it can.
func (s *scene) talking() {
	s.T.Helper()
	s.Must(s.Node.Do(func() error { return stage.NFT("delete table inet reporting") }))
	for _, name := range []string{"net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"} {
		s.Must(s.Node.SetSysctl(name, "0"))
	}
}

// complaints are packets of somebody's, in whoever's name, that the node has to complain
// about to whom the name is: nobody listens, too many hops, too large for the link.
func complaints(from stage.ActorID, src scope) []frame {
	var all []frame
	for _, c := range []class{udp4, udp6} {
		all = append(all,
			frame{from: from, to: stage.TheNode, class: c, number: serverPort, hop: 64, src: src, dst: global, mac: router},
			frame{from: from, to: stage.Outside, class: c, number: serverPort, hop: 1, src: src, dst: global, mac: router},
		)
	}
	return all
}

// TestNobodySendsInAPodsName: an open pod sends in the name of an isolated one what the node
// has to complain about. Nothing of it reaches the isolated pod as the node's complaint,
// which quotes it. The isolated pod's own complaints do.
func TestNobodySendsInAPodsName(t *testing.T) {
	eachMode(t, func(s *scene) {
		if untoldPorts(s) {
			s.T.Skip("skipped: nobody tells which of a foreign bridge's ports is whose, so pods behind them may use each other's names")
		}
		s.talking()
		frames := complaints(stage.Neighbour, pretended+scope(stage.Isolated))
		forged := len(frames)
		for _, f := range complaints(stage.Isolated, global) {
			// To the node it is isolated, and where the bridge leads to the node, that
			// drops it before the node counts hops.
			if f.hop == 1 && !s.Mode.Beside {
				frames = append(frames, f)
			}
		}
		got := s.round(frames)
		for i, f := range frames {
			if i < forged && (got.At(i, stage.Isolated) || got.At(i, stage.Outside)) {
				s.T.Errorf("%s, hop limit %d: what the %s sends in the name of the %s is quoted to it: %t, or goes on: %t", f.class, f.hop, stage.Neighbour, stage.Isolated, got.At(i, stage.Isolated), got.At(i, stage.Outside))
			}
			if i >= forged && !got.At(i, stage.Isolated) {
				s.T.Errorf("%s: the %s is not told that a packet of its own has gone too far", f.class, stage.Isolated)
			}
		}
	})
}

// TestOutsideInAPodsName: with the check of sources, nor does a host outside have the node
// complain to a pod.
func TestOutsideInAPodsName(t *testing.T) {
	checked := []stage.Mode{
		{Name: "bridge", CNI: "bridge"},
		{Name: "chained-bridge", CNI: "chained", By: "bridge", SourceCheck: "on"}, {Name: "chained-routed", CNI: "chained", By: "ptp", SourceCheck: "on"},
		{Name: "policy-only-bridge", CNI: "none", By: "bridge", SourceCheck: "on"}, {Name: "policy-only-routed", CNI: "none", By: "ptp", SourceCheck: "on"},
	}
	inModes(t, checked, func(s *scene) {
		s.talking()
		frames := complaints(stage.Outside, pretended+scope(stage.Isolated))
		got := s.round(frames)
		for i, f := range frames {
			if got.At(i, stage.Isolated) {
				s.T.Errorf("%s, hop limit %d: what the %s sends in the name of the %s is quoted to it", f.class, f.hop, stage.Outside, stage.Isolated)
			}
		}
		frames = complaints(stage.Outside, global)
		got = s.round(frames)
		for i, f := range frames {
			if f.hop == 1 && !got.At(i, stage.Outside) {
				s.T.Errorf("%s: the %s is not told that a packet of its own has gone too far", f.class, stage.Outside)
			}
		}
	})
}

// TestErrorsInNobodysName: an open pod reports an error about somebody else's flow from an
// address that is no pod's. A host outside, which may be a router on the way, can.
func TestErrorsInNobodysName(t *testing.T) {
	eachMode(t, func(s *scene) {
		s.talking()
		for _, six := range []bool{false, true} {
			// The node always reaches its pods, and waits for an answer.
			var local netip.AddrPort
			s.Must(s.Node.Do(func() error {
				conn, err := net.Dial("udp", netip.AddrPortFrom(s.Actors[stage.Isolated].Addr[six], serverPort).String())
				if err != nil {
					return err
				}
				defer conn.Close()
				local = netip.MustParseAddrPort(conn.LocalAddr().String())
				_, err = conn.Write([]byte("hello"))
				return err
			}))
			class, protocol, unreachable := icmp4, policy.ICMP, uint8(3)
			if six {
				class, protocol, unreachable = icmp6, policy.ICMPv6, 1
			}
			frames := []frame{
				{from: stage.Neighbour, to: stage.Isolated, class: class, number: uint16(unreachable), hop: 64, src: pretended + scope(stage.Outside), dst: global, mac: router},
				{from: stage.Outside, to: stage.Isolated, class: class, number: uint16(unreachable), hop: 64, src: global, dst: global, mac: router},
			}
			w := s.watch(frames)
			for i, f := range frames {
				answer := policy.Packet{Src: s.Actors[stage.Isolated].Addr[six], Dst: local.Addr(), Protocol: policy.UDP, DstPort: local.Port()}
				quoted, err := lab.Craft(answer, serverPort, stage.Mark(i))
				s.Must(err)
				packet, err := lab.Craft(policy.Packet{Src: s.source(f), Dst: s.destination(f), Protocol: protocol, ICMPType: unreachable}, 0, quoted)
				s.Must(err)
				if !six {
					lab.Sum(packet[:20])
				}
				s.Send(f.from, append(s.headers(f), packet...))
			}
			got, err := w.End()
			s.Must(err)
			if got.At(0, stage.Isolated) {
				s.T.Errorf("%s: an error of the %s's from the address of the %s reaches the %s", class, stage.Neighbour, stage.Outside, stage.Isolated)
			}
			if !got.At(1, stage.Isolated) {
				s.T.Errorf("%s: an error of the %s's own does not reach the %s: nothing said of others means anything", class, stage.Outside, stage.Isolated)
			}
		}
	})
}

// TestNobodysLoopback: an open pod does not reach the node's 127.0.0.1 where route_localnet
// is on, with its own address or with one that is nobody's on this node. A host outside
// does, which is for others to prevent, and shows that there is a way.
func TestNobodysLoopback(t *testing.T) {
	eachMode(t, func(s *scene) {
		for _, name := range []string{"net/ipv4/conf/all/route_localnet", "net/ipv4/conf/all/accept_local"} {
			s.Must(s.Node.SetSysctl(name, "1"))
		}
		var frames []frame
		for _, src := range []scope{global, remote, pretended + scope(stage.Outside)} {
			for _, mac := range []station{router, group} {
				frames = append(frames, frame{from: stage.Neighbour, to: stage.TheNode, class: udp4, number: serverPort, hop: 64, src: src, dst: loopback, mac: mac})
			}
		}
		frames = append(frames, frame{from: stage.Outside, to: stage.TheNode, class: udp4, number: serverPort, hop: 64, src: global, dst: loopback, mac: router})
		got := s.round(frames)
		for i, f := range frames {
			if from := f.from == stage.Neighbour; got.At(i, stage.TheNode) == from {
				s.T.Errorf("%s -> 127.0.0.1, from the address %s to the MAC %s: arrives: %t", f.from, f.src.name(false), f.mac, from)
			}
		}
	})
}
