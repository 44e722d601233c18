package kernel_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
)

// TestForget: all flows of an address end, those that it has begun and those that lead to
// it, also behind destination NAT, of both families, and no others: looked for one by one, in
// a list of all, or as takes less.
func TestForget(t *testing.T) {
	for name, forget := range map[string]func(*kernel.Flows, []netip.Addr) error{
		"each": (*kernel.Flows).ForgetEach, "listed": (*kernel.Flows).ForgetListed, "either": (*kernel.Flows).Forget,
	} {
		t.Run(name, func(t *testing.T) { testForget(t, forget) })
	}
}

func testForget(t *testing.T, forget func(*kernel.Flows, []netip.Addr) error) {
	n := newFlowNode(t, 1)
	node, flows := n.Node, n.flows
	old, other, third := n.pod("old", 2), n.pod("other", 3), n.pod("third", 4)
	runNFT(t, node, `add table ip service; add chain ip service c { type nat hook prerouting priority -100; }; add rule ip service c ip daddr 10.96.0.1 tcp dport 443 dnat to 10.0.0.2:8080`)
	for _, host := range []*lab.Host{old, other, third} {
		check.Value(host.Serve(policy.TCP, 8080))(t)
		check.Value(host.Serve(policy.UDP, 8080))(t)
	}
	dial := func(from *lab.Host, protocol policy.Protocol, to string) {
		c := check.Value(from.Dial(context.Background(), protocol, netip.MustParseAddrPort(to)))(t)
		t.Cleanup(func() { c.Close() })
		if err := lab.Echo(c, []byte("hello"), 3*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
		dial(old, protocol, "10.0.0.3:8080")
		dial(other, protocol, "10.0.0.2:8080")
		dial(old, protocol, "[fd00::3]:8080")
		dial(other, protocol, "[fd00::2]:8080")
		dial(third, protocol, "10.0.0.3:8080")
		dial(third, protocol, "[fd00::3]:8080")
	}
	dial(other, policy.TCP, "10.96.0.1:443")
	// A pod that is its own Service's endpoint is both ends.
	runNFT(t, node, `add table inet own; add chain inet own to { type nat hook prerouting priority -100; }; add chain inet own back { type nat hook postrouting priority 100; }; add rule inet own to ip daddr 10.96.0.2 udp dport 53 dnat ip to 10.0.0.2:8080; add rule inet own to ip6 daddr fd00:96::2 udp dport 53 dnat ip6 to [fd00::2]:8080; add rule inet own back ip saddr 10.0.0.2 ip daddr 10.0.0.2 masquerade; add rule inet own back ip6 saddr fd00::2 ip6 daddr fd00::2 masquerade`)
	dial(old, policy.UDP, "10.96.0.2:53")
	dial(old, policy.UDP, "[fd00:96::2]:53")
	dial(&node.Host, policy.TCP, "10.0.0.2:8080")

	before := tracked4and6(t, node)
	if n := check.Value(flows.Entries())(t); int(n) < len(before) {
		t.Errorf("the kernel counts %d flows, and lists %d", n, len(before))
	}
	if err := forget(flows, old.IPs); err != nil {
		t.Fatal(err)
	}
	left := tracked4and6(t, node)
	kept := 0
	for _, flow := range before {
		if !names(flow, old.IPs) {
			kept++
		}
	}
	for _, flow := range left {
		if names(flow, old.IPs) {
			t.Errorf("left: %s", flow)
		}
	}
	if len(before)-kept < 6 || len(left) < kept || kept < 2 {
		t.Errorf("of %d flows, %d of others, %d are left", len(before), kept, len(left))
	}
	// Many at once: those of all hosts but one are gone.
	many := slices.Concat(old.IPs, other.IPs)
	for i := range 20 {
		many = append(many, netip.AddrFrom4([4]byte{10, 9, 0, byte(i)}))
	}
	if err := forget(flows, many); err != nil {
		t.Error(err)
	}
	if left := tracked4and6(t, node); slices.ContainsFunc(left, func(f *netlink.ConntrackFlow) bool { return names(f, many) }) {
		t.Errorf("left: %v", left)
	}
}

// names reports whether a flow has one of the addresses at an end.
func names(flow *netlink.ConntrackFlow, addrs []netip.Addr) bool {
	for _, ip := range []net.IP{flow.Forward.SrcIP, flow.Forward.DstIP, flow.Reverse.SrcIP, flow.Reverse.DstIP} {
		for _, addr := range addrs {
			if ip.Equal(addr.AsSlice()) {
				return true
			}
		}
	}
	return false
}

func tracked4and6(t testing.TB, node *lab.Node) (all []*netlink.ConntrackFlow) {
	t.Helper()
	err := node.Do(func() error {
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
			if err != nil {
				return err
			}
			all = append(all, flows...)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// BenchmarkForget measures what a new pod waits for the flows of its addresses to be
// ended, with many flows of others on the node.
func BenchmarkForget(b *testing.B) {
	for _, n := range []int{0, 25_000, 245_000} {
		b.Run(fmt.Sprintf("flows=%d", n), func(b *testing.B) {
			l := check.Value(lab.New(lab.Options{}))(b)
			b.Cleanup(func() { l.Close() })
			node := check.Value(l.AddNode("node", netip.MustParseAddr("192.0.2.1")))(b)
			flows := check.Value(kernel.OpenFlows(kernel.Options{NetNS: node.NetNS()}, 1))(b)
			b.Cleanup(func() { flows.Close() })
			if err := node.Do(func() error { return track(n) }); err != nil {
				b.Fatal(err)
			}
			if have := check.Value(flows.Entries())(b); int(have) != n {
				b.Fatalf("%d flows, not %d", have, n)
			}
			addrs := []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}
			before := cpuTime(b)
			for b.Loop() {
				if err := flows.Forget(addrs); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuTime(b)-before)/1e6/float64(b.N), "cpu-ms/op")
		})
	}
}

// cpuTime is what this process has taken of the processors, the kernel's part with it: unlike
// the clock, it says little of what else the machine does.
func cpuTime(b *testing.B) time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// track has connection tracking know n flows.
func track(n int) error {
	for i := range n {
		ends := netlink.IPTuple{
			SrcIP: net.IPv4(10, 1, byte(i>>16), byte(i>>8)).To4(), DstIP: net.IPv4(10, 2, 0, byte(i)).To4(),
			SrcPort: uint16(1024 + i%50_000), DstPort: 80, Protocol: unix.IPPROTO_UDP,
		}
		back := netlink.IPTuple{SrcIP: ends.DstIP, DstIP: ends.SrcIP, SrcPort: ends.DstPort, DstPort: ends.SrcPort, Protocol: ends.Protocol}
		flow := &netlink.ConntrackFlow{FamilyType: unix.AF_INET, Forward: ends, Reverse: back, TimeOut: 600}
		if err := netlink.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, flow); err != nil {
			return fmt.Errorf("flow %d: %w", i, err)
		}
	}
	return nil
}
