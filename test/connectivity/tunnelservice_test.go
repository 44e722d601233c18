package connectivity_test

import (
	"fmt"
	"net/netip"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/podfence/podfence/cni/node"
)

// TestNoServiceLeadsIntoTheTunnel: a pod sends to an address of the other node that its
// Node does not list. It is masqueraded on its way out, so it looks like its node there;
// a Service that leads on to a tunnel's port makes it look like a datagram between two
// nodes.
func TestNoServiceLeadsIntoTheTunnel(t *testing.T) {
	s := newSiege(t, settings{mode: node.VXLAN})
	unlisted := netip.MustParseAddr("203.0.113.1")
	s.must(s.nodes[1].Do(func() error { return addTo("lo", []netip.Addr{unlisted}) }))
	s.must(s.nodes[0].Do(func() error { return routeBy(unlisted, nodeAddrs(1)[0]) }))
	balancer, err := s.nodes[0].AddExternal("balancer", netip.MustParseAddr("198.51.100.9"))
	s.must(err)
	// The Services' backends are the tunnel's ports of the node itself, and of the other.
	services := map[int]uint16{1: 30001, 0: 30002}
	s.nft(&s.nodes[1].Host, fmt.Sprintf(`table inet services {
		counter led {}
		chain pods {
			type nat hook prerouting priority dstnat;
			ip daddr %[1]s udp dport %[2]d counter name led dnat ip to %[3]s:%[6]d
			ip daddr %[1]s udp dport %[4]d counter name led dnat ip to %[5]s:%[6]d
		}
		chain away { type nat hook postrouting priority srcnat; ct status dnat snat ip to %[3]s; }
	}`, unlisted, services[1], nodeAddrs(1)[0], services[0], nodeAddrs(0)[0], node.DefaultVXLANPort))
	taps := []*tap{s.tap(s.vaults[0].Host), s.tap(s.vaults[1].Host), s.tap(balancer), s.tap(s.halls[1].Host)}
	send := func(to netip.Addr, port uint16, payload []byte) {
		t.Helper()
		s.must(datagram(s.attacker.Host, s.attacker.IPs[0], netip.AddrPortFrom(to, port), payload))
	}

	const often = 20
	for range often {
		for i, port := range services {
			send(unlisted, port, s.wrapped(s.nodes[i], s.client.IPs[0], s.vaults[i].IPs[0]))
		}
		// What is outside may lead anywhere, and the datagram looks like the node's.
		send(balancer.IPs[0], node.DefaultVXLANPort, s.wrapped(s.nodes[1], s.client.IPs[0], s.vaults[1].IPs[0]))
	}
	s.eventually("the Services", func() error {
		led, err := strconv.Atoi(packets.FindStringSubmatch(s.nft(&s.nodes[1].Host, "list counter inet services led"))[1])
		if err == nil && led == 0 {
			err = errNotYet
		}
		return err
	})
	s.settle()
	for _, tap := range taps[:3] {
		if n, first, err := tap.forged(); err != nil || n > 0 {
			t.Errorf("%s: of %d datagrams for a tunnel, received %d, the first of them %x: %v", tap.host, often, n, first, err)
		}
	}

	// Between pods the port is one like any other, and outside others are.
	send(s.halls[1].IPs[0], node.DefaultVXLANPort, mark)
	send(balancer.IPs[0], node.DefaultVXLANPort+1, mark)
	for _, tap := range taps[2:] {
		s.eventually("a pod's own datagram", func() error {
			if n, _, err := tap.forged(); err != nil || n == 0 {
				return errNotYet
			}
			return nil
		})
	}
	s.unmoved()
}

// routeBy routes an address by another one, in the calling thread's namespace.
func routeBy(addr, gateway netip.Addr) error {
	routes, err := netlink.RouteGet(gateway.AsSlice())
	if err != nil {
		return err
	}
	return netlink.RouteReplace(&netlink.Route{
		LinkIndex: routes[0].LinkIndex, Gw: gateway.AsSlice(), Dst: whole(addr), Flags: int(netlink.FLAG_ONLINK),
	})
}
