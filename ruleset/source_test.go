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
		m.Apply(policy.SetNode(policy.Node{Name: n.name, PodCIDRs: []netip.Prefix{netip.MustParsePrefix(n.pods)}, Addrs: []netip.Addr{netip.MustParseAddr(n.addr)}}))
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
	m.Apply(policy.SetNode(policy.Node{Name: "node-3", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.3.0/24")}}))
	m.Apply(policy.DeleteNode("node-2"))
	table.Update(m.Take())
	check("10.244.3.7", "eth0", true, ruleset.Drop)
	check("fd00:10:244:2::7", "eth0", true, ruleset.Accept)
	// A node's own address in a range stays the node's.
	m.Apply(policy.SetNode(policy.Node{Name: "node-4", Addrs: []netip.Addr{netip.MustParseAddr("10.244.3.9")}}))
	table.Update(m.Take())
	check("10.244.3.9", "eth0", true, ruleset.Accept)
	check("10.244.3.10", "eth0", true, ruleset.Drop)
}

// TestTunnelTrace: what may go into a tunnel here, and towards another node's.
func TestTunnelTrace(t *testing.T) {
	m := policy.NewModel("node-1")
	for name, addr := range map[string]string{"node-1": "192.0.2.1", "node-2": "192.0.2.2"} {
		m.Apply(policy.SetNode(policy.Node{Name: name, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244." + addr[len(addr)-1:] + ".0/24")}, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}))
	}
	m.Apply(policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: "shop", Name: "web"}, Node: "node-1", IPs: []netip.Addr{netip.MustParseAddr("10.244.1.7")}}))
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

// TestOthersNames: no pod whose link is known sends in another pod's name, or reports an
// error from an address that is not its own, in either table; from addresses that are no
// pod's an open pod sends as before.
func TestOthersNames(t *testing.T) {
	addr := netip.MustParseAddr
	links := ruleset.Links{
		All: []string{"veth1", "veth2", "veth3"}, Somewhere: []string{"veth3"}, SomewhereAddrs: []netip.Addr{addr("10.244.1.9"), addr("fd00:10:244:1::9")},
		Addrs: []ruleset.LinkAddr{{Link: "veth1", Addr: addr("10.244.1.7")}, {Link: "veth2", Addr: addr("10.244.1.8")}, {Link: "veth2", Addr: addr("fd00:10:244:1::8")}},
	}
	routed := ruleset.Build(policy.NewModel("node-1").Intent(), ruleset.Options{Links: true})
	routed.UpdateLinks(links)
	for _, c := range []struct {
		link, src string
		protocol  policy.Protocol
		icmp      uint8
		want      ruleset.Action
	}{
		{"veth1", "10.244.1.7", policy.UDP, 0, ruleset.Accept},
		{"veth1", "10.244.1.7", policy.ICMP, 3, ruleset.Accept},
		{"veth1", "10.244.1.8", policy.UDP, 0, ruleset.Drop},
		{"veth1", "fd00:10:244:1::8", policy.TCP, 0, ruleset.Drop},
		{"veth1", "10.244.1.9", policy.UDP, 0, ruleset.Drop},
		{"veth1", "203.0.113.7", policy.UDP, 0, ruleset.Accept},
		{"veth1", "203.0.113.7", policy.ICMP, 8, ruleset.Accept},
		{"veth1", "203.0.113.7", policy.ICMP, 3, ruleset.Drop},
		{"veth1", "fe80::1", policy.ICMPv6, 135, ruleset.Accept},
		{"veth1", "fe80::1", policy.ICMPv6, 1, ruleset.Drop},
		{"eth0", "10.244.1.7", policy.UDP, 0, ruleset.Accept},
		{"eth0", "203.0.113.7", policy.ICMP, 3, ruleset.Accept},
	} {
		src, kind := addr(c.src), uint16(ruleset.TypeIPv4)
		if src.Is6() {
			kind = ruleset.TypeIPv6
		}
		p := ruleset.TracePacket{
			Packet: policy.Packet{Src: src, Dst: src, Protocol: c.protocol, ICMPType: c.icmp, HopLimit: 255}, State: ruleset.New,
			Frame: ruleset.Frame{Port: c.link, Type: kind},
		}
		for name, table := range map[string]*ruleset.Table{"inet": routed, "bridge": ruleset.BuildLinks(links, ruleset.FragmentMemory{})} {
			if trace := table.Trace(ruleset.Prerouting, p); trace.Verdict != c.want {
				t.Errorf("%s: %+v: %s", name, c, trace)
			}
		}
	}
	// A loopback address is out of reach from whatever source.
	for _, src := range []string{"203.0.113.7", "fd00:10:244:2::9"} {
		dst, kind := netip.MustParseAddr("127.0.0.1"), uint16(ruleset.TypeIPv4)
		if addr(src).Is6() {
			dst, kind = netip.IPv6Loopback(), ruleset.TypeIPv6
		}
		p := ruleset.TracePacket{Packet: policy.Packet{Src: addr(src), Dst: dst, Protocol: policy.TCP}, State: ruleset.New, Frame: ruleset.Frame{Port: "veth3", Type: kind}}
		for name, table := range map[string]*ruleset.Table{"inet": routed, "bridge": ruleset.BuildLinks(links, ruleset.FragmentMemory{})} {
			if trace := table.Trace(ruleset.Prerouting, p); trace.Verdict != ruleset.Drop {
				t.Errorf("%s: to %s from %s: %s", name, dst, src, trace)
			}
		}
	}
	// Where nobody can tell by which of several ports, each of them may be its.
	p := ruleset.TracePacket{
		Packet: policy.Packet{Src: addr("10.244.1.9"), Dst: addr("10.244.1.7"), Protocol: policy.UDP}, State: ruleset.New,
		Frame: ruleset.Frame{Port: "veth3", Type: ruleset.TypeIPv4},
	}
	if trace := ruleset.BuildLinks(links, ruleset.FragmentMemory{}).Trace(ruleset.Prerouting, p); trace.Verdict != ruleset.Accept {
		t.Errorf("by a port of which nobody can tell whose: %s", trace)
	}
}
