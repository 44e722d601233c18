package connectivity_test

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/cni/plugin"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// siege is a pod that may do all in its own namespace, among others.
type siege struct {
	*cluster
	// vaults take from client only, halls from everyone.
	attacker, client *pod
	vaults, halls    []*pod
}

func newSiege(t *testing.T, o settings) *siege {
	t.Helper()
	o.nodes, o.more = 2, clients
	s := &siege{cluster: newCluster(t, o)}
	s.attacker, s.client = s.pod("hall", 0, "attacker-1")[0], s.pod("hall", 0, "client-1")[0]
	for i, n := range s.nodes {
		s.vaults = append(s.vaults, s.pod("vault", i, "vault-"+n.Name)...)
		s.halls = append(s.halls, s.pod("hall", i, "hall-"+n.Name)...)
	}
	s.say(s.pods...)
	s.eventually("policy", func() error {
		var all []lab.Probe
		for _, v := range s.vaults {
			all = append(all, tcp(s.client.Host, v.Host, allowedPort, true)...)
			all = append(all, tcp(s.attacker.Host, v.Host, allowedPort, false)...)
		}
		for _, h := range s.halls {
			all = append(all, tcp(s.attacker.Host, h.Host, allowedPort, true)...)
		}
		return s.judge(all)
	})
	return s
}

// settle waits until what was sent before would have arrived: until packets that are sent
// now have, and as long again.
func (s *siege) settle() {
	s.t.Helper()
	began := time.Now()
	s.expect("meanwhile", udp(s.attacker.Host, s.halls[0].Host, allowedPort, true), udp(s.attacker.Host, s.halls[1].Host, allowedPort, true))
	time.Sleep(max(20*time.Millisecond, time.Since(began)))
}

// unmoved checks that nobody has noticed anything.
func (s *siege) unmoved() {
	s.t.Helper()
	for _, v := range s.vaults {
		s.expect("after all", tcp(s.client.Host, v.Host, allowedPort, true), tcp(s.attacker.Host, v.Host, allowedPort, false))
	}
	s.mesh(s.attacker.Host, s.client.Host, s.halls[0].Host, s.halls[1].Host, &s.nodes[0].Host)
}

func TestPacketsInAnothersName(t *testing.T) {
	s := newSiege(t, settings{})
	var all []lab.Probe
	for i := range 2 {
		forged := []netip.Addr{s.client.IPs[i], s.halls[1].IPs[i], nodeAddrs(0)[i], nodeAddrs(1)[i], vacant(0)[i]}
		for _, src := range forged {
			for _, to := range []*lab.Host{s.vaults[0].Host, s.vaults[1].Host, s.halls[0].Host, s.halls[1].Host, &s.nodes[0].Host, &s.nodes[1].Host} {
				if src == to.IP(src) {
					continue
				}
				for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
					p := between(s.attacker.Host, src, to, to.IP(src), false)
					p.Packet.Protocol = protocol
					all = append(all, p)
				}
			}
		}
	}
	s.expect("with a forged source", all)
	s.unmoved()
}

func TestNeighboursCannotBeReachedRoundTheNode(t *testing.T) {
	s := newSiege(t, settings{})
	for _, to := range []*pod{s.vaults[0], s.halls[0]} {
		s.must(s.attacker.Do(func() error { return routeTo("eth0", to.IPs, podMAC(to)) }))
		s.expect("on a link of their own", tcp(s.attacker.Host, to.Host, allowedPort, false), udp(s.attacker.Host, to.Host, allowedPort, false))
		s.must(s.attacker.Do(func() error { return routeTo("eth0", to.IPs, plugin.BridgeMAC(node.DefaultBridge)) }))
		open := to.key.Namespace == "hall"
		s.expect("by the gateway", tcp(s.attacker.Host, to.Host, allowedPort, open), udp(s.attacker.Host, to.Host, allowedPort, open))
	}
	s.unmoved()
}

func TestForgedFrames(t *testing.T) {
	s := newSiege(t, settings{})
	watched := []*lab.Host{s.client.Host, s.vaults[0].Host, s.vaults[1].Host, s.halls[0].Host, s.halls[1].Host}
	for _, n := range s.nodes {
		s.meter(&n.Host)
	}
	var taps []*tap
	for _, h := range watched {
		taps = append(taps, s.tap(h))
	}
	known := neighbours(t, s.nodes[0])

	frames := append(s.forgedPackets(), s.forgedMessages()...)
	s.must(inject(s.attacker.Host, frames))
	s.settle()
	for _, tap := range taps {
		n, first, err := tap.forged()
		if err != nil || n > 0 {
			t.Errorf("of %d frames, %s has received %d, the first of them %x: %v", len(frames), tap.host, n, first, err)
		}
	}
	for _, n := range s.nodes {
		for _, name := range []string{"allowed", "denied"} {
			if got := s.count(&n.Host, name); got > 0 {
				t.Errorf("of %d frames, %s has received %d", len(frames), n, got)
			}
		}
	}
	if now := neighbours(t, s.nodes[0]); !maps.Equal(now, known) {
		t.Errorf("the node's neighbours were\n%v, are\n%v", known, now)
	}

	// The same way, frames without a lie in them do arrive.
	kind, b, err := packet(policy.Packet{Src: s.attacker.IPs[0], Dst: s.halls[0].IPs[0], Protocol: policy.UDP, DstPort: deniedPort})
	s.must(err)
	honest := frame(plugin.BridgeMAC(node.DefaultBridge), podMAC(s.attacker), nil, kind, b)
	s.must(inject(s.attacker.Host, [][]byte{honest}))
	s.eventually("an honest frame", func() error {
		if n, _, err := taps[3].forged(); err != nil || n != 1 {
			return errors.Join(err, errNotYet)
		}
		return nil
	})
	s.unmoved()
}

// macs are whom the attacker may send to, and whom it may pretend to be.
func (s *siege) macs() (dst, src []net.HardwareAddr) {
	bridge := plugin.BridgeMAC(node.DefaultBridge)
	dst = []net.HardwareAddr{
		bridge, podMAC(s.client), podMAC(s.vaults[0]), podMAC(s.halls[0]),
		{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {0x01, 0, 0x5e, 0, 0, 1}, {0x33, 0x33, 0, 0, 0, 1},
		// The groups that a bridge treats unlike others: LLDP, PAUSE, STP.
		{0x01, 0x80, 0xc2, 0, 0, 0x0e}, {0x01, 0x80, 0xc2, 0, 0, 1}, {0x01, 0x80, 0xc2, 0, 0, 0},
	}
	return dst, []net.HardwareAddr{podMAC(s.attacker), podMAC(s.client), bridge}
}

// forgedPackets are datagrams of which something is a lie, or that are not sent
// to the gateway; and true ones that policy denies.
func (s *siege) forgedPackets() (frames [][]byte) {
	dstMACs, srcMACs := s.macs()
	tags := [][]uint16{nil, {unix.ETH_P_8021Q}, {unix.ETH_P_8021AD}, {unix.ETH_P_8021AD, unix.ETH_P_8021Q}}
	type place struct {
		ips    []netip.Addr
		closed bool
	}
	places := []place{{nodeAddrs(0), false}, {nodeAddrs(1), false}, {gateways(), false}}
	for _, p := range slices.Concat(s.vaults, s.halls) {
		places = append(places, place{p.IPs, p.key.Namespace == "vault"})
	}
	for i := range 2 {
		for _, src := range []netip.Addr{s.attacker.IPs[i], s.client.IPs[i], nodeAddrs(0)[i], gateways()[i]} {
			for _, to := range places {
				kind, b, err := packet(policy.Packet{Src: src, Dst: to.ips[i], Protocol: policy.UDP, DstPort: allowedPort})
				s.must(err)
				for d, dstMAC := range dstMACs {
					for m, srcMAC := range srcMACs {
						for _, tag := range tags {
							honest := d == 0 && m == 0 && tag == nil && src == s.attacker.IPs[i]
							if !honest || to.closed {
								frames = append(frames, frame(dstMAC, srcMAC, tag, kind, b))
							}
						}
					}
				}
			}
		}
	}
	return frames
}

// forgedMessages say that others' addresses are the attacker's, and offer
// others a router.
func (s *siege) forgedMessages() (frames [][]byte) {
	dstMACs, srcMACs := s.macs()
	gateway, own := gateways(), s.attacker.IPs
	linkLocal := netip.MustParseAddr("fe80::1")
	for _, dstMAC := range dstMACs {
		for _, srcMAC := range srcMACs {
			for _, sender := range []netip.Addr{s.client.IPs[0], s.vaults[0].IPs[0], gateway[0], nodeAddrs(0)[0]} {
				for _, target := range []netip.Addr{s.client.IPs[0], gateway[0], sender} {
					for operation := uint16(1); operation <= 2; operation++ {
						for _, said := range srcMACs {
							frames = append(frames, frame(dstMAC, srcMAC, nil, unix.ETH_P_ARP, arp(operation, said, sender, target)))
						}
					}
				}
			}
			for _, src := range []netip.Addr{s.client.IPs[1], gateway[1], linkLocal, own[1]} {
				for _, dst := range []netip.Addr{netip.MustParseAddr("ff02::1"), s.client.IPs[1], s.vaults[0].IPs[1]} {
					for _, kind := range []uint8{130, 131, 132, 133, 134, 135, 136, 137, 143} {
						etherType, b, err := packet(policy.Packet{Src: src, Dst: dst, Protocol: policy.ICMPv6, ICMPType: kind, HopLimit: random.NeighbourDiscoveryHopLimit})
						s.must(err)
						// A true one to a pod, by the gateway, is an ordinary packet.
						if src != own[1] || dst.IsMulticast() {
							frames = append(frames, frame(dstMAC, srcMAC, nil, etherType, b))
						}
					}
				}
			}
			for _, port := range []uint16{67, 68} {
				etherType, b, err := packet(policy.Packet{Src: netip.IPv4Unspecified(), Dst: netip.AddrFrom4([4]byte{255, 255, 255, 255}), Protocol: policy.UDP, DstPort: port})
				s.must(err)
				frames = append(frames, frame(dstMAC, srcMAC, nil, etherType, b))
			}
		}
	}
	return frames
}
