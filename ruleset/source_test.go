package ruleset_test

import (
	"net/netip"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// TestSourceCheck: a packet with a source in some node's pod range passes only if it comes by the
// guarded bridge, or from where the route to its source leads. Packets from nodes' own addresses,
// and from all others, may come by any link.
func TestSourceCheck(t *testing.T) {
	m := policy.NewModel("node-1")
	for _, n := range []struct{ name, pods, addr string }{{"node-1", "10.244.1.0/24", "192.0.2.1"}, {"node-2", "fd00:10:244:2::/64", "2001:db8::2"}} {
		m.Apply(policy.SetNode(policy.Node{Name: n.name, PodCIDRs: []netip.Prefix{netip.MustParsePrefix(n.pods)}, Addrs: []netip.Addr{netip.MustParseAddr(n.addr)}}))
	}
	table := ruleset.Build(m.Intent(), ruleset.Options{SourceCheck: true, Bridge: "podfence0"})
	check := func(src, by string, elsewhere bool, want nft.Action) {
		t.Helper()
		trace := table.Trace(nft.Prerouting, nft.TracePacket{
			Packet: policy.Packet{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(src)}, Frame: nft.Frame{Port: by}, Elsewhere: elsewhere,
		})
		if trace.Verdict != want {
			t.Errorf("%s by %s, elsewhere: %t: %s", src, by, elsewhere, trace)
		}
	}
	for _, pod := range []string{"10.244.1.7", "fd00:10:244:2::7"} {
		check(pod, "eth0", true, nft.Drop)
		check(pod, "eth0", false, nft.Accept)
		check(pod, "podfence0", true, nft.Accept)
	}
	for _, other := range []string{"192.0.2.1", "2001:db8::2", "198.51.100.7", "10.244.3.7"} {
		check(other, "eth0", true, nft.Accept)
	}
	// A node that joins brings its range, one that leaves takes it along.
	m.Apply(policy.SetNode(policy.Node{Name: "node-3", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.3.0/24")}}))
	m.Apply(policy.DeleteNode("node-2"))
	table.Update(m.Take())
	check("10.244.3.7", "eth0", true, nft.Drop)
	check("fd00:10:244:2::7", "eth0", true, nft.Accept)
	// A node's own address in a range stays the node's.
	m.Apply(policy.SetNode(policy.Node{Name: "node-4", Addrs: []netip.Addr{netip.MustParseAddr("10.244.3.9")}}))
	table.Update(m.Take())
	check("10.244.3.9", "eth0", true, nft.Accept)
	check("10.244.3.10", "eth0", true, nft.Drop)
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
		hook     nft.HookPoint
		src, dst string
		dnat     bool
		want     nft.Action
	}{
		{nft.Input, "192.0.2.2", "192.0.2.1", false, nft.Accept},
		{nft.Input, "192.0.2.2", "192.0.2.1", true, nft.Drop},
		{nft.Input, "192.0.2.2", "203.0.113.1", false, nft.Drop},
		{nft.Input, "198.51.100.7", "192.0.2.1", false, nft.Drop},
		{nft.Forward, "192.0.2.1", "192.0.2.2", true, nft.Drop},
		{nft.Forward, "192.0.2.1", "203.0.113.2", true, nft.Drop},
		{nft.Forward, "10.244.1.7", "192.0.2.2", false, nft.Drop},
		{nft.Forward, "10.244.1.7", "203.0.113.2", false, nft.Drop},
		{nft.Forward, "10.244.1.7", "10.244.2.7", false, nft.Accept},
		{nft.Forward, "198.51.100.7", "203.0.113.2", false, nft.Accept},
	} {
		trace := table.Trace(c.hook, nft.TracePacket{State: nft.New, DNAT: c.dnat, Packet: policy.Packet{
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
		want      nft.Action
	}{
		{"veth1", "10.244.1.7", policy.UDP, 0, nft.Accept},
		{"veth1", "10.244.1.7", policy.ICMP, 3, nft.Accept},
		{"veth1", "10.244.1.8", policy.UDP, 0, nft.Drop},
		{"veth1", "fd00:10:244:1::8", policy.TCP, 0, nft.Drop},
		{"veth1", "10.244.1.9", policy.UDP, 0, nft.Drop},
		{"veth1", "203.0.113.7", policy.UDP, 0, nft.Accept},
		{"veth1", "203.0.113.7", policy.ICMP, 8, nft.Accept},
		{"veth1", "203.0.113.7", policy.ICMP, 3, nft.Drop},
		{"veth1", "fe80::1", policy.ICMPv6, 135, nft.Accept},
		{"veth1", "fe80::1", policy.ICMPv6, 1, nft.Drop},
		{"eth0", "10.244.1.7", policy.UDP, 0, nft.Accept},
		{"eth0", "203.0.113.7", policy.ICMP, 3, nft.Accept},
	} {
		src, kind := addr(c.src), uint16(nft.TypeIPv4)
		if src.Is6() {
			kind = nft.TypeIPv6
		}
		p := nft.TracePacket{
			Packet: policy.Packet{Src: src, Dst: src, Protocol: c.protocol, ICMPType: c.icmp, HopLimit: 255}, State: nft.New,
			Frame: nft.Frame{Port: c.link, Type: kind},
		}
		for name, table := range map[string]*nft.Table{"inet": &routed.Table, "bridge": &ruleset.BuildLinks(links, ruleset.FragmentMemory{}).Table} {
			if trace := table.Trace(nft.Prerouting, p); trace.Verdict != c.want {
				t.Errorf("%s: %+v: %s", name, c, trace)
			}
		}
	}
	// A loopback address is out of reach from whatever source.
	for _, src := range []string{"203.0.113.7", "fd00:10:244:2::9"} {
		dst, kind := netip.MustParseAddr("127.0.0.1"), uint16(nft.TypeIPv4)
		if addr(src).Is6() {
			dst, kind = netip.IPv6Loopback(), nft.TypeIPv6
		}
		p := nft.TracePacket{Packet: policy.Packet{Src: addr(src), Dst: dst, Protocol: policy.TCP}, State: nft.New, Frame: nft.Frame{Port: "veth3", Type: kind}}
		for name, table := range map[string]*nft.Table{"inet": &routed.Table, "bridge": &ruleset.BuildLinks(links, ruleset.FragmentMemory{}).Table} {
			if trace := table.Trace(nft.Prerouting, p); trace.Verdict != nft.Drop {
				t.Errorf("%s: to %s from %s: %s", name, dst, src, trace)
			}
		}
	}
	// Where nobody can tell which of several ports is a pod's, each of them may be.
	p := nft.TracePacket{
		Packet: policy.Packet{Src: addr("10.244.1.9"), Dst: addr("10.244.1.7"), Protocol: policy.UDP}, State: nft.New,
		Frame: nft.Frame{Port: "veth3", Type: nft.TypeIPv4},
	}
	if trace := ruleset.BuildLinks(links, ruleset.FragmentMemory{}).Trace(nft.Prerouting, p); trace.Verdict != nft.Accept {
		t.Errorf("by a port of which nobody can tell whose: %s", trace)
	}
}
