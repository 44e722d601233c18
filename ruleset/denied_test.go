package ruleset_test

import (
	"net/netip"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// TestDeniedAtASharedAddress: people who read the log do not know the chains. Where several pods may
// have an address, the log names the pod whose policies do not let the packet pass, as it does for
// other addresses.
func TestDeniedAtASharedAddress(t *testing.T) {
	m := policy.NewModel("node")
	for addr, names := range map[string][]string{"10.244.1.7": {"web-0", "web-1"}, "fd00:244::7": {"db-0", "db-1"}, "10.244.1.8": {"alone-0"}} {
		for _, name := range names {
			m.Apply(policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: "shop", Name: name}, Node: "node", IPs: []netip.Addr{netip.MustParseAddr(addr)}}))
		}
	}
	m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}))
	m.Apply(policy.SetPolicy(policy.Policy{Key: policy.Key{Namespace: "shop", Name: "deny"}, Subject: &policy.Selector{Namespace: "shop"}, Isolates: [2]bool{true, true}}))
	table := ruleset.Build(m.Intent(), ruleset.Options{})
	for addr, want := range map[string]string{
		"10.244.1.7": "egress of shop/web-0, by shop/deny", "fd00:244::7": "egress of shop/db-0, by shop/deny", "10.244.1.8": "egress of shop/alone-0, by shop/deny",
	} {
		src := netip.MustParseAddr(addr)
		dst := netip.MustParseAddr("203.0.113.7")
		if src.Is6() {
			dst = netip.MustParseAddr("2001:db8::7")
		}
		p := policy.Packet{Src: src, Dst: dst, Protocol: policy.TCP, DstPort: 80, HopLimit: 64}
		if got := table.Denied(table.Trace(nft.Forward, nft.TracePacket{Packet: p, State: nft.New})); got != want {
			t.Errorf("%s: %q, not %q", p, got, want)
		}
	}
}
