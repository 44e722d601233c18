package ruleset_test

import (
	"net/netip"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
)

// TestSourceCheck: what has a source in some node's pod range goes on only by the guarded
// bridge, or if its route leads where it has come from. Nodes' own addresses, and all
// others, may come by any link.
func TestSourceCheck(t *testing.T) {
	m := policy.NewModel("node-1")
	for _, n := range []struct{ name, pods, addr string }{{"node-1", "10.244.1.0/24", "192.0.2.1"}, {"node-2", "fd00:10:244:2::/64", "2001:db8::2"}} {
		m.SetNode(policy.Node{Name: n.name, PodCIDRs: []netip.Prefix{netip.MustParsePrefix(n.pods)}, Addrs: []netip.Addr{netip.MustParseAddr(n.addr)}})
	}
	table := ruleset.Build(m.Intent(), ruleset.Options{SourceCheck: true, Bridge: "podfence0"})
	check := func(src, by string, elsewhere bool, want ruleset.Action) {
		t.Helper()
		trace := table.Trace(ruleset.Prerouting, ruleset.TracePacket{
			Packet: policy.Packet{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(src)}, Frame: ruleset.Frame{Port: by}, Elsewhere: elsewhere,
		})
		if trace.Verdict != want {
			t.Errorf("%s by %s, elsewhere: %t: %s", src, by, elsewhere, trace)
		}
	}
	for _, pod := range []string{"10.244.1.7", "fd00:10:244:2::7"} {
		check(pod, "eth0", true, ruleset.Drop)
		check(pod, "eth0", false, ruleset.Accept)
		check(pod, "podfence0", true, ruleset.Accept)
	}
	for _, other := range []string{"192.0.2.1", "2001:db8::2", "198.51.100.7", "10.244.3.7"} {
		check(other, "eth0", true, ruleset.Accept)
	}
	// A node that joins brings its range, one that leaves takes it along.
	m.SetNode(policy.Node{Name: "node-3", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.3.0/24")}})
	m.DeleteNode("node-2")
	table.Update(m.Take())
	check("10.244.3.7", "eth0", true, ruleset.Drop)
	check("fd00:10:244:2::7", "eth0", true, ruleset.Accept)
	// A node's own address in a range stays the node's.
	m.SetNode(policy.Node{Name: "node-4", Addrs: []netip.Addr{netip.MustParseAddr("10.244.3.9")}})
	table.Update(m.Take())
	check("10.244.3.9", "eth0", true, ruleset.Accept)
	check("10.244.3.10", "eth0", true, ruleset.Drop)
}

// TestTunnelTrace: what may go into a tunnel here, and towards another node's.
func TestTunnelTrace(t *testing.T) {
	m := policy.NewModel("node-1")
	for name, addr := range map[string]string{"node-1": "192.0.2.1", "node-2": "192.0.2.2"} {
		m.SetNode(policy.Node{Name: name, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244." + addr[len(addr)-1:] + ".0/24")}, Addrs: []netip.Addr{netip.MustParseAddr(addr)}})
	}
	m.SetPod(&policy.Pod{Key: policy.Key{Namespace: "shop", Name: "web"}, Node: "node-1", IPs: []netip.Addr{netip.MustParseAddr("10.244.1.7")}})
	table := ruleset.Build(m.Intent(), ruleset.Options{Masquerade: true, TunnelPort: 8472})
	for _, c := range []struct {
		hook     ruleset.HookPoint
		src, dst string
		dnat     bool
		want     ruleset.Action
	}{
		{ruleset.Input, "192.0.2.2", "192.0.2.1", false, ruleset.Accept},
		{ruleset.Input, "192.0.2.2", "192.0.2.1", true, ruleset.Drop},
		{ruleset.Input, "192.0.2.2", "203.0.113.1", false, ruleset.Drop},
		{ruleset.Input, "198.51.100.7", "192.0.2.1", false, ruleset.Drop},
		{ruleset.Forward, "192.0.2.1", "192.0.2.2", true, ruleset.Drop},
		{ruleset.Forward, "192.0.2.1", "203.0.113.2", true, ruleset.Drop},
		{ruleset.Forward, "10.244.1.7", "192.0.2.2", false, ruleset.Drop},
		{ruleset.Forward, "10.244.1.7", "203.0.113.2", false, ruleset.Drop},
		{ruleset.Forward, "10.244.1.7", "10.244.2.7", false, ruleset.Accept},
		{ruleset.Forward, "198.51.100.7", "203.0.113.2", false, ruleset.Accept},
	} {
		trace := table.Trace(c.hook, ruleset.TracePacket{State: ruleset.New, DNAT: c.dnat, Packet: policy.Packet{
			Src: netip.MustParseAddr(c.src), Dst: netip.MustParseAddr(c.dst), Protocol: policy.UDP, DstPort: 8472,
		}})
		if trace.Verdict != c.want {
			t.Errorf("%+v: %s", c, trace)
		}
	}
}
