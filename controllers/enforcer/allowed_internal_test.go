package enforcer

import (
	"net/netip"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// TestAllowances: what lets a packet pass is told by the table as it is, also after it has changed; before
// the first commit nothing is known.
func TestAllowances(t *testing.T) {
	e := New(nil, Options{Node: "node"})
	allowedBy := e.Allowances()
	p := policy.Packet{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("203.0.113.7"), Protocol: policy.TCP, DstPort: 80, HopLimit: 64}
	if by := allowedBy(nft.Forward, p); by != nil {
		t.Errorf("without a table it is %v", by)
	}
	m := policy.NewModel("node")
	client := pod("client")
	client.IPs = []netip.Addr{p.Src}
	m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}), policy.SetPod(client))
	set := func(name string) {
		out := policy.Policy{Key: policy.Key{Namespace: "shop", Name: name}, Subject: &policy.Selector{Namespace: "shop"}}
		out.Isolates[policy.Egress], out.Rules[policy.Egress] = true, []policy.Rule{{AnyPeer: true, AnyPort: true}}
		m.Apply(policy.SetPolicy(out))
		e.policies.put(ruleset.Build(m.Intent(), ruleset.Options{}))
	}
	for _, name := range []string{"second", "first"} { // in whose order they are asked
		set(name)
		for range 2 {
			if by := allowedBy(nft.Forward, p); len(by) != 1 || by[0].Policy.Name != name || by[0].Direction != policy.Egress {
				t.Errorf("it is %+v, want %s", by, name)
			}
		}
	}
	if by := allowedBy(nft.Output, p); by != nil {
		t.Errorf("what the node sends under this address is let pass by %+v", by)
	}
}
