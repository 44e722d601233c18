package node_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/cni/node"
)

// TestModeChange goes from host-gw to VXLAN and back, while packets are sent.
func TestModeChange(t *testing.T) {
	t.Parallel()
	nodes := shared(t, 2, 1500)
	start(t, nodes, node.Options{Mode: node.HostGW})
	mesh(t, nodes)
	before := nodes[0].routes()

	// There is no default route: without a route, connect fails.
	stop, lost := make(chan struct{}), make(chan error)
	go func() {
		lost <- nodes[0].do(func() error {
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				for _, a := range nodes[1].podIPs() {
					conn, err := net.Dial("udp", netip.AddrPortFrom(a, 9).String())
					if err != nil {
						return err
					}
					_ = conn.Close()
				}
			}
		})
	}()
	for range 5 {
		for _, mode := range []node.Mode{node.VXLAN, node.HostGW} {
			for _, p := range nodes {
				p.open(node.Options{Mode: mode})
				if p.reconcile(all(nodes)...) == 0 {
					t.Error("no changes")
				}
			}
		}
	}
	close(stop)
	if err := <-lost; err != nil {
		t.Errorf("a gap: %v", err)
	}
	if after := nodes[0].routes(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if out := nodes[0].ip("link"); strings.Contains(out, "vxlan") {
		t.Error(out)
	}
	mesh(t, nodes)
}

func TestNodeGone(t *testing.T) {
	for _, mode := range []node.Mode{node.HostGW, node.VXLAN} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			nodes := shared(t, 3, 1500)
			start(t, nodes, node.Options{Mode: mode})
			p := nodes[0]
			with := p.state()
			if !strings.Contains(with, "10.244.3.") || !strings.Contains(with, ":244:3:") {
				t.Fatalf("no routes:\n%s", with)
			}
			p.reconcile(nodes[1].Node)
			if out := p.state(); strings.Contains(out, "244.3.") || strings.Contains(out, ":244:3:") ||
				strings.Contains(out, node.VTEPMAC("node3", false).String()) || strings.Contains(out, "192.168.1.3 dev podfence") {
				t.Errorf("left:\n%s", out)
			}
			mesh(t, nodes[:2])
			p.reconcile(all(nodes)...)
			if out := p.state(); out != with {
				t.Errorf("not as before:\n%s\nbut\n%s", with, out)
			}
			// Alone: only what the node itself needs, and the plugin's routes.
			p.reconcile()
			for line := range strings.Lines(p.routes()) {
				if strings.Contains(line, "112") && !strings.Contains(line, "unreachable") && !strings.Contains(line, "podfence0") {
					t.Error("left: " + line)
				}
			}
		})
	}
}

// state is all that a node has for other nodes.
func (p *peer) state() string {
	p.t.Helper()
	out := p.routes()
	if _, err := p.try("link show podfence-vxlan"); err != nil {
		return out
	}
	entries := strings.Split(p.ip("-4 neigh show dev podfence-vxlan")+"\n"+p.ip("-6 neigh show dev podfence-vxlan nud permanent"), "\n")
	err := p.do(func() error {
		device, err := net.InterfaceByName("podfence-vxlan")
		if err == nil {
			entries = append(entries, fdb(p.t, device.Index)...)
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	// ip(8) ends lines with a space, all but the last of its list; and which that
	// is, the kernel's hash decides.
	for i := range entries {
		entries[i] = strings.TrimSpace(entries[i])
	}
	slices.Sort(entries)
	return out + "\n" + strings.Join(entries, "\n")
}

// TestNodeMoves has a node change its addresses and ranges, and change places
// with another.
func TestNodeMoves(t *testing.T) {
	t.Parallel()
	nodes := shared(t, 3, 1500)
	start(t, nodes, node.Options{Mode: node.VXLAN})
	p := nodes[0]
	a, b := nodes[1].Node, nodes[2].Node
	was := p.state()
	a.Addrs, b.Addrs = b.Addrs, a.Addrs
	a.PodCIDRs, b.PodCIDRs = b.PodCIDRs, a.PodCIDRs
	p.reconcile(a, b)
	if p.state() == was {
		t.Error("nothing has changed")
	}
	a.Addrs, b.Addrs = b.Addrs, a.Addrs
	a.PodCIDRs, b.PodCIDRs = b.PodCIDRs, a.PodCIDRs
	p.reconcile(a, b)
	if out := p.state(); out != was {
		t.Errorf("not as before:\n%s\nbut\n%s", was, out)
	}
	// Its own InternalIP: the device is made anew.
	p.ip("addr add 192.168.1.101/24 dev eth0")
	p.Addrs[0] = netip.MustParseAddr("192.168.1.101")
	p.reconcile(a, b)
	if out := p.ip("-d link show podfence-vxlan"); !strings.Contains(out, "local 192.168.1.101 ") {
		t.Error(out)
	}
	for _, other := range nodes[1:] {
		other.reconcile(all(nodes)...)
	}
	mesh(t, nodes)
	// Its own range: the old gateway goes.
	p.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.9.0/24"), p.PodCIDRs[1]}
	p.reconcile(a, b)
	for _, device := range []string{"podfence0", "podfence-vxlan"} {
		if out := p.ip("addr show " + device); strings.Contains(out, "10.244.1.1/") || !strings.Contains(out, "10.244.9.1/32") {
			t.Error(out)
		}
	}
}

func TestRepair(t *testing.T) {
	t.Parallel()
	nodes := shared(t, 2, 1500)
	start(t, nodes, node.Options{Mode: node.VXLAN})
	p, others := nodes[0], all(nodes)
	was := p.state()
	mac := node.VTEPMAC("node2", false).String()
	for _, damage := range []string{
		"route del 10.244.2.0/24", "-6 route del fd00:10:244:2::/64", "route change 10.244.2.0/24 via 192.168.1.2 proto 112",
		"link del podfence-vxlan", "link set podfence-vxlan down", "link set podfence-vxlan mtu 1300",
		"link set podfence-vxlan address 02:00:00:00:00:01",
		"neigh del 10.244.2.1 dev podfence-vxlan", "neigh replace 10.244.2.1 lladdr 02:00:00:00:00:01 dev podfence-vxlan",
		"neigh replace 10.244.7.1 lladdr 02:00:00:00:00:01 nud permanent dev podfence-vxlan",
		"rule del iif podfence0 lookup 28774", "rule add iif podfence0 lookup 28774 proto 112 pref 5",
		"route add 10.244.77.0/24 via 192.168.1.7 proto 112", "-6 route add unreachable fd00:77::/64 proto 112",
		"addr del 10.244.1.1/32 dev podfence-vxlan", "addr add 10.244.5.1/32 dev podfence-vxlan",
		"link del podfence0",
	} {
		p.ip(damage)
		if p.reconcile(others...) == 0 {
			t.Errorf("%s: no change", damage)
		}
		if damage == "link del podfence0" {
			// The plugin's routes go with it.
			was = withoutLines(was, "dev podfence0")
		}
		if out := p.state(); out != was {
			t.Errorf("%s: not\n%s\nbut\n%s", damage, was, out)
		}
	}
	for damage, repaired := range map[string]string{
		"del " + mac + " dst 192.168.1.2":       mac,
		"replace " + mac + " dst 192.168.1.99":  mac,
		"add 02:00:00:00:00:01 dst 192.168.1.7": "",
	} {
		p.bridge("fdb " + damage + " dev podfence-vxlan self permanent")
		if p.reconcile(others...) != 1 {
			t.Errorf("%s (%s): not one change", damage, repaired)
		}
		if out := p.state(); out != was {
			t.Errorf("%s: not\n%s\nbut\n%s", damage, was, out)
		}
	}
}

func withoutLines(text, with string) string {
	lines := slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool { return strings.Contains(l, with) })
	return strings.Join(lines, "\n")
}

func TestHostGWNeedsALink(t *testing.T) {
	t.Parallel()
	nodes, _ := routed(t, 2, 1500, false)
	_, err := nodes[0].open(node.Options{Mode: node.HostGW}).Reconcile(nodes[0].Node, all(nodes), nil)
	if err == nil || !strings.Contains(err.Error(), "node node2: InternalIP 192.168.2.2") {
		t.Error(err)
	}
}

func TestOptions(t *testing.T) {
	for want, o := range map[string]node.Options{
		"mode 9":             {Mode: 9},
		"VXLAN port 70000":   {VXLANPort: 70000},
		"VNI 16777216":       {VNI: 1 << 24},
		"longer than 15":     {Bridge: "a-name-of-16-oct"},
		"have the same name": {Bridge: "x", VXLANDevice: "x"},
	} {
		if _, err := node.Open(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	for _, m := range []node.Mode{node.Auto, node.HostGW, node.VXLAN} {
		if got, err := node.ParseMode(m.String()); got != m || err != nil {
			t.Errorf("%s: %s, %v", m, got, err)
		}
	}
	if _, err := node.ParseMode("ipip"); err == nil {
		t.Error("no error")
	}
	p := newPeer(t, 1, "192.0.2.1")
	n := p.open(node.Options{})
	if _, err := n.Reconcile(node.Node{Name: "other"}, nil, nil); err == nil {
		t.Error("another node's name: no error")
	}
	if _, err := n.MTU(); err == nil {
		t.Error("MTU without a link: no error")
	}
	for range 2 {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := n.Reconcile(p.Node, nil, nil); !errors.Is(err, node.ErrClosed) {
		t.Error(err)
	}
	if _, err := n.MTU(); !errors.Is(err, node.ErrClosed) {
		t.Error(err)
	}
}

// TestOwnAddressLost: while this Node has no InternalIP, even as the agent starts anew, the
// tunnel stays what it is, and pods that start do not get a larger MTU.
func TestOwnAddressLost(t *testing.T) {
	for _, v6first := range []bool{false, true} {
		t.Run(fmt.Sprint("IPv6 first: ", v6first), func(t *testing.T) {
			t.Parallel()
			nodes, _ := routed(t, 2, 1500, v6first)
			start(t, nodes, node.Options{})
			p := nodes[0]
			was := p.state()
			mtu, err := p.net.MTU()
			if err != nil || mtu >= 1500 {
				t.Fatal(mtu, err)
			}
			lost := p.Node
			lost.Addrs = nil
			n := p.open(node.Options{}) // it remembers nothing
			for range 2 {
				changes, err := n.Reconcile(lost, all(nodes), nil)
				if err != nil {
					t.Error(err)
				}
				if now, err := n.MTU(); now != mtu || err != nil {
					t.Errorf("MTU %d, %v; was %d", now, err, mtu)
				}
				// The node's own packets may have another source meanwhile.
				if out := p.ip("link show podfence-vxlan"); strings.Contains(strings.Join(changes, " "), "remove") || !strings.Contains(out, "UP") {
					t.Errorf("%v: %s", changes, out)
				}
			}
			p.reconcile(all(nodes)...)
			if out := p.state(); out != was {
				t.Errorf("not\n%s\nbut\n%s", was, out)
			}
		})
	}
}

// TestLastAddr: a Network that is opened anew knows where the tunnel led, until it leads
// where the Nodes say.
func TestLastAddr(t *testing.T) {
	t.Parallel()
	nodes, _ := routed(t, 2, 1500, false)
	start(t, nodes, node.Options{})
	p := nodes[0]
	n := p.open(node.Options{})
	if a := n.LastAddr("node2"); a != nodes[1].Addrs[0] {
		t.Errorf("%s, not %s", a, nodes[1].Addrs[0])
	}
	if a := n.LastAddr("node1"); a.IsValid() {
		t.Errorf("%s", a)
	}
	p.reconcile(all(nodes)...)
	if a := n.LastAddr("node2"); a.IsValid() {
		t.Errorf("%s, after a round", a)
	}
}

// manyNodes is a node and count others on its link.
func manyNodes(t testing.TB, count int) (p *peer, others []node.Node) {
	p = newPeer(t, 0, "172.16.255.254", "fd01::1")
	p.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd02::/64")}
	p.ip("link add eth0 type veth peer name eth1", "link set eth0 up", "link set eth1 up",
		"addr add 172.16.255.254/16 dev eth0", "addr add fd01::1/64 dev eth0 nodad")
	for i := 1; i <= count; i++ {
		others = append(others, node.Node{
			Name:  fmt.Sprintf("n%d", i),
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}), netip.AddrFrom16([16]byte{0: 0xfd, 1: 1, 13: 1, 14: byte(i >> 8), 15: byte(i)})},
			PodCIDRs: []netip.Prefix{
				netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1 + byte(i>>8), byte(i), 0}), 24),
				netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 2, 6: byte(i >> 8), 7: byte(i)}), 64),
			},
		})
	}
	return p, others
}

// BenchmarkRound is a Reconcile with 5,000 other nodes of two families and no pods: one
// that finds nothing to do, and one in which a Node has changed its address.
func BenchmarkRound(b *testing.B) {
	p, others := manyNodes(b, 5000)
	changed := slices.Clone(others)
	changed[0].Addrs = slices.Clone(changed[0].Addrs)
	changed[0].Addrs[0] = netip.MustParseAddr("172.16.254.1")
	changed[0].Addrs[1] = netip.MustParseAddr("fd01::fe:1")
	for _, mode := range []node.Mode{node.HostGW, node.VXLAN} {
		n := p.open(node.Options{Mode: mode})
		if _, err := n.Reconcile(p.Node, others, nil); err != nil {
			b.Fatal(err)
		}
		for _, name := range []string{"unchanged", "one changed"} {
			b.Run(mode.String()+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for i := range b.N {
					now := others
					if name != "unchanged" && i%2 == 0 {
						now = changed
					}
					changes, err := n.Reconcile(p.Node, now, nil)
					if err != nil || name == "unchanged" && len(changes) > 0 || name != "unchanged" && (len(changes) == 0 || len(changes) > 8) {
						b.Fatal(changes, err)
					}
				}
				b.StopTimer()
				if _, err := n.Reconcile(p.Node, others, nil); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}
