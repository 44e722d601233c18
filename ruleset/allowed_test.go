package ruleset_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// TestAllowedBy: of a packet that passes, the rule is told that has let it pass, for each direction in which
// there is one, in whatever tier; of one that nothing is about, of one that is denied, and of one from an
// address that several pods have, none is.
func TestAllowedBy(t *testing.T) {
	m := policy.NewModel("node")
	stackPods(m, "red", 2, 1)   // 10.244.1.1 and 2
	stackPods(m, "blue", 2, 11) // 10.244.1.11 and 12
	stackPods(m, "free", 1, 21)
	stackPods(m, "twin", 1, 31)
	stackPods(m, "other-twin", 1, 31)
	m.Apply(
		clusterPolicy("admin", policy.AdminTier, 1, "blue", about(policy.Deny, "evil"), about(policy.Accept, "red"), about(policy.Pass, "free")),
		clusterPolicy("base", policy.BaselineTier, 0, "red", about(policy.Accept, "blue"), about(policy.Deny, "free")),
	)
	isolating := func(name, namespace string, d policy.Direction, rules ...policy.Rule) policy.Change {
		p := policy.Policy{Key: policy.Key{Namespace: namespace, Name: name}, Subject: &policy.Selector{Namespace: namespace}}
		p.Isolates[d], p.Rules[d] = true, rules
		return policy.SetPolicy(p)
	}
	port := func(index int, port uint16) policy.Rule {
		return policy.Rule{Index: index, AnyPeer: true, Ports: []policy.PortRange{{Protocol: policy.TCP, First: port, Last: port}}}
	}
	m.Apply(
		isolating("out", "red", policy.Egress, port(0, 80), port(1, 443)),
		isolating("in", "blue", policy.Ingress, port(0, 80)),
		isolating("out", "twin", policy.Egress, port(0, 80)),
		isolating("out", "other-twin", policy.Egress, port(0, 80)),
	)
	table := ruleset.Build(m.Intent(), ruleset.Options{RevokedMark: 1 << 29})
	type allowed struct {
		direction policy.Direction
		policy    string
		tier      policy.Tier
		index     int
	}
	out := func(index int) allowed { return allowed{policy.Egress, "red/out", policy.NetworkPolicyTier, index} }
	for _, c := range []struct {
		src, dst string
		port     uint16
		passes   bool
		want     []allowed
	}{
		{"10.244.1.1", "203.0.113.7", 443, true, []allowed{out(1)}},
		{"10.244.1.1", "203.0.113.7", 22, false, nil},
		{"10.244.1.1", "10.244.1.11", 443, true, []allowed{out(1), {policy.Ingress, "/admin", policy.AdminTier, 1}}},
		{"10.244.1.21", "10.244.1.11", 80, true, []allowed{{policy.Ingress, "blue/in", policy.NetworkPolicyTier, 0}}}, // passed by the admin tier
		{"10.244.1.21", "10.244.1.11", 81, false, nil},
		{"10.244.1.12", "10.244.1.2", 80, true, []allowed{{policy.Ingress, "/base", policy.BaselineTier, 0}}},
		{"10.244.1.21", "203.0.113.7", 80, true, nil},
		{"203.0.113.7", "10.244.1.1", 80, true, nil}, // none of its rules decides
		{"10.244.1.31", "203.0.113.7", 80, true, nil},
		{"10.244.1.31", "203.0.113.7", 81, false, nil},
	} {
		p := policy.Packet{Src: netip.MustParseAddr(c.src), Dst: netip.MustParseAddr(c.dst), Protocol: policy.TCP, DstPort: c.port, HopLimit: 64}
		trace := table.Trace(nft.Forward, nft.TracePacket{Packet: p, State: nft.New})
		if passes := trace.Verdict == nft.Accept; passes != c.passes {
			t.Errorf("%s: passes is %t, want %t", p, passes, c.passes)
		}
		var got []allowed
		for _, by := range table.AllowedBy(trace) {
			got = append(got, allowed{by.Direction, by.Policy.String(), by.Tier, by.Index})
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", p, got, c.want)
		}
	}
}
