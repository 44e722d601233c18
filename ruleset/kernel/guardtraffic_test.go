package kernel_test

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// withAndWithout runs a test with br_netfilter out of the way, and in it.
func withAndWithout(t *testing.T, test func(*testing.T, *guardLab)) {
	for _, value := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+value, func(t *testing.T) { test(t, newGuardLab(t, value)) })
	}
}

// expect has a client ask, and be seen with an address; empty: get no answer.
func expect(t *testing.T, from *namespace, to, seenAs string) {
	t.Helper()
	got, err := from.ask(to)
	if got != seenAs || (err == nil) != (seenAs != "") {
		t.Errorf("to %s: seen as %q (%v), want %q", to, got, err, seenAs)
	}
}

// TestGuardPasses: what pods are for goes through the guard, from the first
// packet on, both ways; also when a neighbour entry has gone on either side.
func TestGuardPasses(t *testing.T) {
	withAndWithout(t, func(t *testing.T, l *guardLab) {
		l.guard()
		for _, n := range []*namespace{l.a.namespace, l.b.namespace, l.node, l.outside} {
			n.listen()
		}
		all := func() {
			t.Helper()
			a4, a6 := l.a.IPs[0].String(), l.a.IPs[1].String()
			for _, to := range []string{"10.244.1.3", "10.244.1.1", "192.0.2.1", "10.244.2.2", "192.0.2.2"} {
				expect(t, l.a.namespace, to, a4)
			}
			for _, to := range []string{"fd00:10:244:1::3", "fd00:10:244:1::1", "2001:db8::1", "2001:db8::2"} {
				expect(t, l.a.namespace, to, a6)
			}
			expect(t, l.node, a4, "10.244.1.1")
			expect(t, l.node, a6, "fd00:10:244:1::1")
			expect(t, l.outside, a4, "192.0.2.2")
			expect(t, l.outside, a6, "2001:db8:f::1")
		}
		all()
		forget := func(n *namespace, device string) {
			n.do("forget neighbours", func() error {
				link, err := netlink.LinkByName(device)
				if err != nil {
					return err
				}
				neighbours, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
				for _, neighbour := range neighbours {
					if neighbour.State == netlink.NUD_PERMANENT && neighbour.HardwareAddr != nil {
						if err := netlink.NeighDel(&neighbour); err != nil {
							return err
						}
					}
				}
				return err
			})
		}
		forget(l.a.namespace, "eth0")
		all()
		forget(l.node, bridgeName)
		all()
		l.node.expectDrops(t, false)
	})
}

// expectDrops expects that the guard has dropped something, or nothing, besides
// what a kernel sends for its link's groups, and questions for the gateway's
// address that need not go to all ports.
func (n *namespace) expectDrops(t *testing.T, some bool) {
	t.Helper()
	dropped := false
	listing := n.nft("", "list", "table", "bridge", "podfence")
	for _, line := range strings.Split(listing, "\n") {
		if strings.Contains(line, "@router-messages") || strings.Contains(line, "for the bridge alone") {
			continue
		}
		dropped = dropped || strings.Contains(line, " drop") && !strings.Contains(line, "packets 0 ")
	}
	if dropped != some {
		t.Errorf("dropped: %v, want %v:\n%s", dropped, some, listing)
	}
}

// service makes what kube-proxy makes of a Service.
const service = `
table ip service {
	chain prerouting {
		type nat hook prerouting priority dstnat;
		ip daddr 10.96.0.1 dnat to 10.244.1.3
		ip daddr 10.96.0.2 dnat to 10.244.2.2
		ip daddr 10.96.0.3 dnat to 192.0.2.1
		ip daddr 10.96.0.4 meta mark set 0x4000 dnat to 10.244.1.2
	}
	chain postrouting {
		type nat hook postrouting priority srcnat;
		meta mark 0x4000 masquerade
	}
}
table ip6 service {
	chain prerouting {
		type nat hook prerouting priority dstnat;
		ip6 daddr fd00:96::1 dnat to fd00:10:244:1::3
		ip6 daddr fd00:96::2 dnat to 2001:db8:f::1
		ip6 daddr fd00:96::4 meta mark set 0x4000 dnat to fd00:10:244:1::2
	}
	chain postrouting {
		type nat hook postrouting priority srcnat;
		meta mark 0x4000 masquerade
	}
}
table inet count {
	chain forward {
		type filter hook forward priority 0;
		ct state new counter
	}
}
`

// TestGuardServices: a Service's packets pass the guard, to a pod of the same
// node (which br_netfilter makes frames of the bridge), to one of another, to the
// node itself, and back to the pod that they come from. Policy sees each of them
// once. So does masquerading, which leaves them alone.
func TestGuardServices(t *testing.T) {
	withAndWithout(t, func(t *testing.T, l *guardLab) {
		l.guard()
		l.node.nft(service, "-f", "-")
		for _, n := range []*namespace{l.a.namespace, l.b.namespace, l.node, l.outside} {
			n.listen()
		}
		forwarded := 0
		for _, test := range []struct {
			to, seenAs string
			forwards   int
		}{
			{"10.96.0.1", "10.244.1.2", 1}, {"10.96.0.1", "10.244.1.2", 1},
			{"10.96.0.2", "10.244.1.2", 1},
			{"10.96.0.3", "10.244.1.2", 0},
			{"10.96.0.4", "10.244.1.1", 1}, // kube-proxy's masquerade
			{"fd00:96::1", "fd00:10:244:1::2", 1}, {"fd00:96::2", "2001:db8::1", 1},
			{"fd00:96::4", "fd00:10:244:1::1", 1},
		} {
			expect(t, l.a.namespace, test.to, test.seenAs)
			forwarded += test.forwards
			want := "counter packets " + string(rune('0'+forwarded)) + " "
			if listing := l.node.nft("", "list", "table", "inet", "count"); !strings.Contains(listing, want) {
				t.Errorf("to %s: want %s\n%s", test.to, want, listing)
			}
		}
		l.node.expectDrops(t, false)
	})
}

// TestMasquerade: outside, a pod has the node's address; inside, its own.
func TestMasquerade(t *testing.T) {
	withAndWithout(t, func(t *testing.T, l *guardLab) {
		l.guard()
		for _, n := range []*namespace{l.b.namespace, l.node, l.outside} {
			n.listen()
		}
		for to, seenAs := range map[string]string{
			"198.51.100.1": "192.0.2.1", "2001:db8:f::1": "2001:db8::1", // outside
			"10.244.1.3": "10.244.1.2", "fd00:10:244:1::3": "fd00:10:244:1::2", // a pod here
			"10.244.2.2": "10.244.1.2",                                    // a pod there
			"192.0.2.1":  "10.244.1.2", "2001:db8::1": "fd00:10:244:1::2", // this node
			"192.0.2.2": "10.244.1.2", "2001:db8::2": "fd00:10:244:1::2", // the other
		} {
			expect(t, l.a.namespace, to, seenAs)
		}
	})
}
