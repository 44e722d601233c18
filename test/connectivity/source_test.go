package connectivity_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

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
				// Whatever there is no other route to is where the host is.
				s.must(n.Do(func() error { return routeAll(h.Link) }))
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

// routeAll makes a link the default route's, in the calling thread's namespace.
func routeAll(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	var errs []error
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		_, dst, err := net.ParseCIDR(all)
		errs = append(errs, err, netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst}))
	}
	return errors.Join(errs...)
}

// TestNodePortsFromOutside: a client outside, and a pod, reach pods of both nodes by a port
// of a node, which leads there with the node's own address or with the client's. All of it
// passes the check of sources, in each mode of routing.
func TestNodePortsFromOutside(t *testing.T) {
	for _, mode := range []node.Mode{node.HostGW, node.VXLAN} {
		t.Run(mode.String(), func(t *testing.T) {
			c := newCluster(t, settings{nodes: 2, mode: mode})
			client, err := c.nodes[0].AddExternal("client", netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:7::7"))
			c.must(err)
			near, far, other := c.pod("hall", 0, "near-1")[0], c.pod("hall", 1, "far-1")[0], c.pod("hall", 1, "other-1")[0]
			c.say(c.pods...)
			var to, away strings.Builder
			for port, p := range map[int]*pod{30001: near, 30002: far} {
				for j, addr := range nodeAddrs(0) {
					family := map[bool]string{true: "ip", false: "ip6"}[addr.Is4()]
					fmt.Fprintf(&to, "%[1]s daddr %[2]s tcp dport %[3]d dnat %[1]s to %[4]s\n", family, addr, port, netip.AddrPortFrom(p.IPs[j], allowedPort))
					if p == far { // as its answer has to come back this way
						fmt.Fprintf(&away, "%[1]s daddr %[2]s ct status dnat snat %[1]s to %[3]s\n", family, p.IPs[j], addr)
					}
				}
			}
			c.nft(&c.nodes[0].Host, fmt.Sprintf(`table inet services {
				chain pods { type nat hook prerouting priority dstnat; %s }
				chain away { type nat hook postrouting priority srcnat; %s }
			}`, to.String(), away.String()))
			for _, from := range []*lab.Host{client, near.Host, other.Host} {
				for port, p := range map[uint16]*pod{30001: near, 30002: far} {
					if from == p.Host {
						continue
					}
					for j, addr := range nodeAddrs(0) {
						want := from.IPs[j]
						if p == far {
							want = addr
						}
						seen, server, err := talk(from, p.Host, netip.AddrPortFrom(addr, port), netip.AddrPortFrom(p.IPs[j], allowedPort))
						if err != nil || seen != want || server != addr {
							t.Errorf("%s by %s, port %d, to %s: seen as %s, answered by %s: %v", from, addr, port, p, seen, server, err)
						}
					}
				}
			}
		})
	}
}

// TestSourcesByAnotherUplink: what a node sends by another link than the one by which its
// pods are reached is not taken for its pods': who is on the other link could send it. With
// the check off it is.
func TestSourcesByAnotherUplink(t *testing.T) {
	for _, checked := range []bool{true, false} {
		t.Run(fmt.Sprintf("checked: %t", checked), func(t *testing.T) {
			c := newCluster(t, settings{nodes: 2, mode: node.HostGW, anySource: !checked})
			far, near := c.pod("hall", 1, "far-1")[0], c.pod("hall", 0, "near-1")[0]
			c.say(c.pods...)
			c.mesh(far.Host, near.Host)
			// A second link between the nodes, by which the far one sends from now on.
			c.must(c.nodes[1].Do(func() error {
				link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "second"}, PeerName: "second", PeerNamespace: netlink.NsFd(c.nodes[0].NetNS())}
				return netlink.LinkAdd(link)
			}))
			var macs [2]net.HardwareAddr
			for i, n := range c.nodes {
				c.must(n.Do(func() error {
					link, err := netlink.LinkByName("second")
					if err != nil {
						return err
					}
					macs[i] = link.Attrs().HardwareAddr
					return netlink.LinkSetUp(link)
				}))
			}
			// The route to the one pod alone: podfence keeps the one to its range.
			c.must(c.nodes[1].Do(func() error { return routeTo("second", near.IPs, macs[0]) }))
			// So each of the two nodes gets by one link what it would send by the other.
			c.expect("by another link than the route's", udp(far.Host, near.Host, allowedPort, !checked), udp(near.Host, far.Host, allowedPort, !checked))
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
	s.settle()
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
