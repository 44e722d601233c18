package node_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/cni/node"
)

// TestForeign has routes, devices and addresses of others.
func TestForeign(t *testing.T) {
	t.Parallel()
	nodes := shared(t, 3, 1500)
	p := nodes[0]
	p.ip("link add other type bridge", "link set other up", "addr add 10.99.0.1/24 dev other", "-6 addr add fd99::1/64 dev other nodad",
		"route add 10.244.2.0/24 dev other metric 7", "route add 10.98.0.0/16 via 10.99.0.2", "-6 route add fd98::/64 via fd99::2",
		"rule add iif other lookup 28774 pref 3", "route add 10.97.0.0/16 dev other table 28774",
		"neigh add 192.168.1.77 lladdr 02:00:00:00:00:01 dev eth0")
	foreign := func() string {
		out := p.ip("-4 route show table all") + "\n" + p.ip("-6 route show table all") + "\n" + p.ip("rule") + "\n" + p.ip("-o addr") + "\n" + p.ip("neigh show nud permanent")
		lines := strings.Split(out, "\n")
		for i, l := range lines {
			lines[i] = strings.TrimSpace(l)
		}
		// The kernel adds some as it becomes a router, or as it likes: an address's own after
		// the address, when the machine is busy.
		lines = slices.DeleteFunc(lines, func(l string) bool {
			return strings.HasPrefix(l, "local ") && strings.Contains(l, "proto kernel") || strings.Contains(l, "podfence") || strings.HasPrefix(l, "anycast") || strings.Contains(l, "fe80:") || strings.Contains(l, "proto 112") || strings.Contains(l, "multicast") ||
				strings.Contains(l, "iif podfence0") || strings.Contains(l, "FAILED")
		})
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	before := foreign()
	n := p.open(node.Options{Mode: node.VXLAN})
	for range 2 {
		_, err := n.Reconcile(p.Node, all(nodes), nil)
		if err == nil || !strings.Contains(err.Error(), "10.244.2.0/24 dev other") {
			t.Errorf("no error for a foreign route: %v", err)
		}
	}
	if changes, _ := n.Reconcile(p.Node, all(nodes), nil); len(changes) != 0 {
		t.Errorf("%v", changes)
	}
	if after := foreign(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if out := p.routes(); !strings.Contains(out, "10.244.3.0/24 via") || !strings.Contains(out, "fd00:10:244:2::/64 via") {
		t.Errorf("other routes are missing:\n%s", out)
	}
	p.ip("route del 10.244.2.0/24 dev other")
	p.reconcile(all(nodes)...)
	if out := p.routes(); !strings.Contains(out, "10.244.2.0/24 via") {
		t.Error(out)
	}
	p.open(node.Options{Mode: node.HostGW})
	p.reconcile()
	if after := foreign(); after != withoutLines(before, "10.244.2.0/24 dev other") {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}

	// Devices with podfence's names.
	p.ip("link del podfence0", "link add podfence0 type veth peer name unused", "link add podfence-vxlan type bridge")
	n = p.open(node.Options{Mode: node.VXLAN})
	_, err := n.Reconcile(p.Node, all(nodes), nil)
	for _, want := range []string{"podfence0 is a veth", "podfence-vxlan is no VXLAN device"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	p.ip("link del podfence0", "link add podfence0 type bridge")
	before = p.ip("link show podfence0")
	if _, err = n.Reconcile(p.Node, all(nodes), nil); err == nil || !strings.Contains(err.Error(), "podfence0 is a bridge with MAC") {
		t.Error(err)
	}
	if after := p.ip("link show podfence0"); after != before {
		t.Errorf("another's bridge was changed: %s, %s", before, after)
	}
	// Another tunnel with the same number.
	p.ip("link del podfence0", "link del podfence-vxlan", "link add theirs type vxlan id 1 dstport 8472 local 192.168.1.1")
	if _, err = n.Reconcile(p.Node, all(nodes), nil); err == nil || !strings.Contains(err.Error(), "another device has VNI 1") {
		t.Errorf("VNI: %v", err)
	}
	p.open(node.Options{Mode: node.VXLAN, VNI: 2, VXLANPort: 8473, Bridge: "pods", VXLANDevice: "pods-vxlan"})
	p.reconcile(all(nodes)...)
}

// TestForeignOwnRange: a bridge of another plugin that has the node's own range is this
// node's trouble, not that of other Nodes, and the rest of the network is made all the same.
func TestForeignOwnRange(t *testing.T) {
	t.Parallel()
	nodes := shared(t, 2, 1500)
	p := nodes[0]
	p.ip("link add cni0 type bridge", "link set cni0 up", "addr add 10.244.1.1/24 dev cni0")
	_, err := p.open(node.Options{}).Reconcile(p.Node, all(nodes), nil)
	partial, is := err.(*node.PartialError)
	if !is || len(partial.Nodes) > 0 || len(partial.Ranges) != 1 {
		t.Fatalf("%#v", err)
	}
	if text := partial.Error(); !strings.Contains(text, "route to 10.244.1.0/24: there is one that podfence did not make, 10.244.1.0/24 dev cni0") {
		t.Error(text)
	}
	if out := p.routes(); !strings.Contains(out, "10.244.2.0/24 via") || !strings.Contains(out, "unreachable fd00:10:244:1::/64") {
		t.Error(out)
	}
	p.ip("link del cni0")
	p.reconcile(all(nodes)...)
}

// TestOthersGoOn has one bad node of each kind among good ones.
func TestOthersGoOn(t *testing.T) {
	t.Parallel()
	nodes := shared(t, 3, 1500)
	start(t, nodes, node.Options{})
	p := nodes[0]
	was := p.routes()
	good, victim := nodes[1].Node, nodes[2].Node
	change := func(f func(*node.Node)) node.Node {
		bad := victim
		bad.Addrs, bad.PodCIDRs = slices.Clone(bad.Addrs), slices.Clone(bad.PodCIDRs)
		f(&bad)
		return bad
	}
	cidr := netip.MustParsePrefix
	for want, bad := range map[string]node.Node{
		"podCIDR 10.244.3.0/24: the node has no InternalIP": change(func(n *node.Node) { n.Addrs = nil }),
		"invalid Prefix can't be used":                      change(func(n *node.Node) { n.PodCIDRs = append(n.PodCIDRs, netip.Prefix{}) }),
		"0.0.0.0/0 can't be used":                           change(func(n *node.Node) { n.PodCIDRs = append(n.PodCIDRs, cidr("0.0.0.0/0")) }),
		"overlaps with this node's":                         change(func(n *node.Node) { n.PodCIDRs = append(n.PodCIDRs, cidr("10.244.0.0/16")) }),
		"is another node's, too":                            change(func(n *node.Node) { n.PodCIDRs = append(n.PodCIDRs, cidr("10.244.2.0/24")) }),
		"contains the node's InternalIP":                    change(func(n *node.Node) { n.PodCIDRs = append(n.PodCIDRs, cidr("192.168.1.3/29")) }),
		"contains this node's InternalIP":                   change(func(n *node.Node) { n.PodCIDRs = append(n.PodCIDRs, cidr("192.168.1.0/30")); n.Addrs = n.Addrs[1:] }),
		"is this node's, too":                               change(func(n *node.Node) { n.Addrs[0] = p.Addrs[0] }),
	} {
		changes, err := p.net.Reconcile(p.Node, []node.Node{bad, good}, nil)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "node3") {
			t.Errorf("%q is not in: %v", want, err)
		}
		if out := p.routes(); len(changes) != 0 || out != was {
			t.Errorf("%s: %v:\n%s", want, changes, out)
		}
	}
	// An address that can't be used is left out.
	linkLocal := change(func(n *node.Node) { n.Addrs = append([]netip.Addr{netip.MustParseAddr("fe80::1")}, n.Addrs...) })
	if changes, err := p.net.Reconcile(p.Node, []node.Node{linkLocal, good}, nil); len(changes) != 0 || err != nil {
		t.Errorf("%v, %v", changes, err)
	}
	// The same through the tunnel, where there is more to keep.
	p.open(node.Options{Mode: node.VXLAN})
	p.reconcile(all(nodes)...)
	tunnelled := p.state()
	for _, mode := range []node.Mode{node.VXLAN, node.Auto} {
		bad := change(func(n *node.Node) { n.Addrs = nil })
		if changes, err := p.open(node.Options{Mode: mode}).Reconcile(p.Node, []node.Node{bad, good}, nil); err == nil {
			t.Errorf("%s: %v, no error", mode, changes)
		}
		if out := p.state(); mode == node.VXLAN && out != tunnelled || !strings.Contains(out, "10.244.3.0/24 via 10.244.3.1 dev podfence-vxlan") {
			t.Errorf("%s: %s", mode, out)
		}
	}
	p.reconcile(all(nodes)...)
	if out := p.routes(); out != was {
		t.Errorf("not\n%s\nbut\n%s", was, out)
	}
	nothing := node.Node{Name: "new"}
	if changes, err := p.net.Reconcile(p.Node, append(all(nodes), nothing), nil); len(changes) != 0 || err == nil || !strings.Contains(err.Error(), "node new: no podCIDR") {
		t.Errorf("%v, %v", changes, err)
	}
	// This node itself has no range yet: the others are routed to all the same.
	q := newPeer(t, 4, "192.168.1.4")
	q.PodCIDRs = nil
	q.ip("link add eth0 type veth peer name eth1", "link set eth0 up", "link set eth1 up", "addr add 192.168.1.4/24 dev eth0")
	if _, err := q.open(node.Options{Mode: node.VXLAN}).Reconcile(q.Node, []node.Node{good}, nil); err == nil || !strings.Contains(err.Error(), "node4: no podCIDR") {
		t.Error(err)
	}
	if out := q.routes(); !strings.Contains(out, "10.244.2.0/24 via") {
		t.Error(out)
	}
}
