package ruleset_test

import (
	"net/netip"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// TestTagged: what has a VLAN tag, and is IP from or to an isolated pod, is dropped at prerouting, where a bridge
// takes tags off, and at forward, where it has put them on. What is for the node, and what is between others, passes.
func TestTagged(t *testing.T) {
	table := ruleset.BuildLinks(links, ruleset.FragmentMemory{})
	const tag, serviceTag, outside, outside6 = 0x8100, 0x88a8, "198.51.100.7", "2001:db8::7"
	for _, c := range []struct {
		hook     nft.HookPoint
		src, dst string
		kind     uint16
		here     bool
		want     nft.Action
	}{
		{nft.Prerouting, outside, "10.244.1.7", tag, false, nft.Drop},
		{nft.Prerouting, outside, "10.244.1.7", serviceTag, false, nft.Drop},
		{nft.Prerouting, outside6, "fd00:10:244:1::7", tag, false, nft.Drop},
		{nft.Prerouting, outside, "10.244.1.7", nft.TypeIPv4, false, nft.Accept}, // br_netfilter sees it
		{nft.Prerouting, outside, "10.244.1.7", tag, true, nft.Accept},           // routed
		{nft.Prerouting, outside, "10.244.1.9", tag, false, nft.Accept},          // an open pod's
		{nft.Prerouting, outside6, "fd00:10:244:1::8", tag, false, nft.Accept},   // isolated for egress alone
		{nft.Prerouting, "fd00:10:244:1::8", outside6, tag, false, nft.Drop},     // by a port that is not known to be the pod's
		{nft.Forward, "fd00:10:244:1::8", outside6, tag, false, nft.Drop},
		{nft.Forward, "fd00:10:244:1::8", outside6, tag, true, nft.Drop},
		{nft.Forward, "fd00:10:244:1::8", outside6, nft.TypeIPv6, false, nft.Accept},
		{nft.Forward, "10.244.1.9", outside, tag, false, nft.Accept},
	} {
		p := nft.TracePacket{
			Packet: policy.Packet{Src: netip.MustParseAddr(c.src), Dst: netip.MustParseAddr(c.dst), Protocol: policy.UDP},
			Frame:  nft.Frame{Port: "eth0", Out: "eth1", Type: c.kind, Here: c.here},
		}
		if trace := table.Trace(c.hook, p); trace.Verdict != c.want {
			t.Errorf("%+v: %s", c, trace)
		}
	}
	// A pod that is no longer isolated gets what others get.
	table.UpdateLinks(ruleset.Links{})
	p := nft.TracePacket{
		Packet: policy.Packet{Src: netip.MustParseAddr(outside), Dst: netip.MustParseAddr("10.244.1.7"), Protocol: policy.UDP}, Frame: nft.Frame{Port: "eth0", Type: tag},
	}
	if trace := table.Trace(nft.Prerouting, p); trace.Verdict != nft.Accept {
		t.Errorf("without an isolated pod: %s", trace)
	}
}
