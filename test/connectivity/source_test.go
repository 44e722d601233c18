package connectivity_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

// TestPodsSourcesFromOutside: hosts on the nodes' links send with the addresses of pods,
// of the node that takes the packet and of others, of the nodes' bridges, and of nobody.
// Nothing of it goes on, whether the policies would let the pod that has the address in
// or not; all that pods themselves send does.
func TestPodsSourcesFromOutside(t *testing.T) {
	for _, mode := range []node.Mode{node.HostGW, node.VXLAN} {
		t.Run(mode.String(), func(t *testing.T) {
			s := newSiege(t, settings{mode: mode})
			var all []lab.Probe
			for i, n := range s.nodes {
				h, err := n.AddExternal("outside-"+n.Name, netip.AddrFrom4([4]byte{198, 51, 100, byte(i + 1)}), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 7, 15: byte(i + 1)}))
				s.must(err)
				for f := range 2 {
					for _, src := range []netip.Addr{s.client.IPs[f], s.halls[0].IPs[f], s.halls[1].IPs[f], vacant(0)[f], vacant(1)[f], gateways()[f]} {
						for _, to := range []*lab.Host{s.vaults[0].Host, s.vaults[1].Host, s.halls[0].Host, s.halls[1].Host, &s.nodes[0].Host, &s.nodes[1].Host} {
							if src == to.IP(src) {
								continue
							}
							for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
								p := between(h, src, to, to.IP(src), false)
								p.Packet.Protocol = protocol
								all = append(all, p)
							}
						}
					}
				}
				// Its own address is nobody else's.
				s.expect("from outside", udp(h, s.halls[i].Host, allowedPort, true))
			}
			s.expect("from outside, with a pod's source", all)
			s.unmoved()
		})
	}
}

// TestATunnelCarriesNoneOfTheReceiversPods: what comes out of the tunnel comes from no pod
// of the node itself.
func TestATunnelCarriesNoneOfTheReceiversPods(t *testing.T) {
	s := newSiege(t, settings{mode: node.VXLAN})
	tap := s.tap(s.halls[1].Host)
	send := func(src netip.Addr) {
		t.Helper()
		s.must(tunnel(&s.nodes[0].Host, nodeAddrs(0)[0], nodeAddrs(1)[0], s.wrapped(s.nodes[1], src, s.halls[1].IPs[0])))
	}
	for range 20 {
		send(s.vaults[1].IPs[0])
		send(vacant(1)[0])
	}
	time.Sleep(200 * time.Millisecond)
	if n, first, err := tap.forged(); err != nil || n > 0 {
		t.Errorf("received %d, the first of them %x: %v", n, first, err)
	}
	send(s.halls[0].IPs[0])
	s.eventually("another node's pod's packet", func() error {
		if n, _, err := tap.forged(); err != nil || n == 0 {
			return errNotYet
		}
		return nil
	})
	s.unmoved()
}
