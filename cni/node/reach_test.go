package node_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/podfence/podfence/cni/node"
)

func TestOneLink(t *testing.T) {
	for _, test := range []struct {
		mode   node.Mode
		mtu    int
		tunnel bool
	}{{node.Auto, 1500, false}, {node.HostGW, 1500, false}, {node.VXLAN, 1450, true}} {
		t.Run(test.mode.String(), func(t *testing.T) {
			t.Parallel()
			nodes := shared(t, 3, 1500)
			start(t, nodes, node.Options{Mode: test.mode})
			mesh(t, nodes)
			for _, p := range nodes {
				if mtu, err := p.net.MTU(); mtu != test.mtu || err != nil {
					t.Errorf("MTU %d, %v", mtu, err)
				}
				if routes := p.routes(); strings.Contains(routes, "podfence-vxlan") != test.tunnel {
					t.Errorf("routes of %s:\n%s", p.Name, routes)
				}
			}
		})
	}
}

func TestRouter(t *testing.T) {
	for _, test := range []struct {
		name    string
		mode    node.Mode
		v6first bool
		mtu     int
	}{
		{"auto", node.Auto, false, 1450},
		{"vxlan", node.VXLAN, false, 1450},
		{"IPv6 underlay", node.Auto, true, 1430},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			nodes, router := routed(t, 3, 1500, test.v6first)
			for _, p := range nodes {
				// As many distributions have it.
				p.setSysctl("net/ipv4/conf/all/rp_filter", "1")
			}
			start(t, nodes, node.Options{Mode: test.mode})
			if out := nodes[0].ip("link show podfence-vxlan"); !strings.Contains(out, fmt.Sprintf("mtu %d ", test.mtu)) {
				t.Error(out)
			}
			mesh(t, nodes)
			for i, dst := range nodes[1].podIPs() {
				mtu, err := nodes[0].net.MTU()
				if mtu != test.mtu || err != nil {
					t.Fatalf("MTU %d, %v", mtu, err)
				}
				if err := largest(nodes[0].pod, nodes[1].pod, dst, mtu); err != nil {
					t.Errorf("largest packet to %s: %v", dst, err)
				}
				if err := largest(nodes[0].pod, nodes[1].pod, nodes[1].podIPs()[i], mtu+1); err == nil {
					t.Error("a larger packet passed")
				}
			}
			for _, s := range []*space{nodes[0].space, nodes[1].space, router} {
				if f := s.fragments(); f != "" {
					t.Error("fragments: " + f)
				}
			}
			// Nothing of a pod is seen outside the tunnel.
			if out := router.ip("route") + router.ip("-6 route"); strings.Contains(out, "244") {
				t.Error(out)
			}
		})
	}
}

// TestAutoPerNode has two nodes on one link, and a third behind one of them.
func TestAutoPerNode(t *testing.T) {
	t.Parallel()
	nodes := shared(t, 2, 1500)
	far := newPeer(t, 3, "192.168.3.2", "fd00:3::2")
	nodes = append(nodes, far)
	router := newSpace(t)
	router.setSysctl("net/ipv4/ip_forward", "1")
	router.setSysctl("net/ipv6/conf/all/forwarding", "1")
	far.cable(router, 1500)
	far.ip("addr add 192.168.3.2/24 dev eth0", "addr add fd00:3::2/64 dev eth0 nodad",
		"route add default via 192.168.3.1", "-6 route add default via fd00:3::1")
	router.ip("addr add 192.168.3.1/24 dev node3", "addr add fd00:3::1/64 dev node3 nodad")
	for i, p := range nodes[:2] {
		// A second link to the router; the InternalIPs stay on the first.
		p.ip(fmt.Sprintf("link add eth1 type veth peer name r%d netns %s", i, router.path()), "link set eth1 up",
			fmt.Sprintf("addr add 192.168.1%d.2/24 dev eth1", i), fmt.Sprintf("addr add fd00:1%d::2/64 dev eth1 nodad", i),
			fmt.Sprintf("route add 192.168.3.0/24 via 192.168.1%d.1 src 192.168.1.%d", i, i+1),
			fmt.Sprintf("-6 route add fd00:3::/64 via fd00:1%d::1 src fd00:1::%d", i, i+1))
		router.ip(fmt.Sprintf("link set r%d up", i),
			fmt.Sprintf("addr add 192.168.1%d.1/24 dev r%d", i, i), fmt.Sprintf("addr add fd00:1%d::1/64 dev r%d nodad", i, i),
			fmt.Sprintf("route add 192.168.1.%d via 192.168.1%d.2", i+1, i), fmt.Sprintf("-6 route add fd00:1::%d via fd00:1%d::2", i+1, i))
	}
	start(t, nodes, node.Options{})
	mesh(t, nodes)
	for dst, device := range map[string]string{
		"10.244.2.2": "eth0", "fd00:10:244:2::2": "eth0", "10.244.3.2": "podfence-vxlan", "fd00:10:244:3::2": "podfence-vxlan",
	} {
		if out := nodes[0].ip("route get " + dst); !strings.Contains(out, "dev "+device+" ") {
			t.Errorf("%s, not %s: %s", dst, device, out)
		}
	}
}
