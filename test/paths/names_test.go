package paths_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

// talking lets the node answer, and not only be told, as quickly as it can.
func (s *scene) talking() {
	s.t.Helper()
	s.must(s.node.Do(func() error { return nft("delete table inet reporting") }))
	for _, name := range []string{"net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"} {
		s.must(s.node.SetSysctl(name, "0"))
	}
}

// complaints are packets of somebody's, in whoever's name, that the node has to complain
// about to whom the name is: nobody listens, too many hops, too large for the link.
func complaints(from actorID, src scope) []frame {
	var all []frame
	for _, c := range []class{udp4, udp6} {
		all = append(all,
			frame{from: from, to: theNode, class: c, number: serverPort, hop: 64, src: src, dst: global, mac: router},
			frame{from: from, to: outside, class: c, number: serverPort, hop: 1, src: src, dst: global, mac: router},
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
			s.t.Skip("skipped: nobody tells which of a foreign bridge's ports is whose, so pods behind them may use each other's names")
		}
		s.talking()
		frames := complaints(neighbour, pretended+scope(isolated))
		forged := len(frames)
		for _, f := range complaints(isolated, global) {
			// To the node it is isolated, and where the bridge leads to the node, that
			// drops it before the node counts hops.
			if f.hop == 1 && !s.mode.beside {
				frames = append(frames, f)
			}
		}
		got := s.round(frames)
		for i, f := range frames {
			if i < forged && (got.at(i, isolated) || got.at(i, outside)) {
				s.t.Errorf("%s, hop limit %d: what the %s sends in the name of the %s is quoted to it: %t, or goes on: %t", f.class, f.hop, neighbour, isolated, got.at(i, isolated), got.at(i, outside))
			}
			if i >= forged && !got.at(i, isolated) {
				s.t.Errorf("%s: the %s is not told that a packet of its own has gone too far", f.class, isolated)
			}
		}
	})
}

// TestOutsideInAPodsName: with the check of sources, nor does a host outside have the node
// complain to a pod.
func TestOutsideInAPodsName(t *testing.T) {
	checked := []mode{
		{name: "bridge", cni: "bridge"},
		{name: "chained-bridge", cni: "chained", by: "bridge", check: "on"}, {name: "chained-routed", cni: "chained", by: "ptp", check: "on"},
		{name: "policy-only-bridge", cni: "none", by: "bridge", check: "on"}, {name: "policy-only-routed", cni: "none", by: "ptp", check: "on"},
	}
	inModes(t, checked, func(s *scene) {
		s.talking()
		frames := complaints(outside, pretended+scope(isolated))
		got := s.round(frames)
		for i, f := range frames {
			if got.at(i, isolated) {
				s.t.Errorf("%s, hop limit %d: what the %s sends in the name of the %s is quoted to it", f.class, f.hop, outside, isolated)
			}
		}
		frames = complaints(outside, global)
		got = s.round(frames)
		for i, f := range frames {
			if f.hop == 1 && !got.at(i, outside) {
				s.t.Errorf("%s: the %s is not told that a packet of its own has gone too far", f.class, outside)
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
			s.must(s.node.Do(func() error {
				conn, err := net.Dial("udp", netip.AddrPortFrom(s.actors[isolated].addr[six], serverPort).String())
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
				{from: neighbour, to: isolated, class: class, number: uint16(unreachable), hop: 64, src: pretended + scope(outside), dst: global, mac: router},
				{from: outside, to: isolated, class: class, number: uint16(unreachable), hop: 64, src: global, dst: global, mac: router},
			}
			w := s.watch(frames)
			for i, f := range frames {
				answer := policy.Packet{Src: s.actors[isolated].addr[six], Dst: local.Addr(), Protocol: policy.UDP, DstPort: local.Port()}
				quoted, err := lab.Craft(answer, serverPort, mark(i))
				s.must(err)
				packet, err := lab.Craft(policy.Packet{Src: s.source(f), Dst: s.destination(f), Protocol: protocol, ICMPType: unreachable}, 0, quoted)
				s.must(err)
				if !six {
					sum(packet[:20])
				}
				s.sendRaw(f.from, append(s.headers(f), packet...))
			}
			got, err := w.end()
			s.must(err)
			if got.at(0, isolated) {
				s.t.Errorf("%s: an error of the %s's from the address of the %s reaches the %s", class, neighbour, outside, isolated)
			}
			if !got.at(1, isolated) {
				s.t.Errorf("%s: an error of the %s's own does not reach the %s: nothing said of others means anything", class, outside, isolated)
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
			s.must(s.node.SetSysctl(name, "1"))
		}
		var frames []frame
		for _, src := range []scope{global, remote, pretended + scope(outside)} {
			for _, mac := range []station{router, group} {
				frames = append(frames, frame{from: neighbour, to: theNode, class: udp4, number: serverPort, hop: 64, src: src, dst: loopback, mac: mac})
			}
		}
		frames = append(frames, frame{from: outside, to: theNode, class: udp4, number: serverPort, hop: 64, src: global, dst: loopback, mac: router})
		got := s.round(frames)
		for i, f := range frames {
			if from := f.from == neighbour; got.at(i, theNode) == from {
				s.t.Errorf("%s -> 127.0.0.1, from the address %s to the MAC %s: arrives: %t", f.from, f.src.name(false), f.mac, from)
			}
		}
	})
}
