package ruleset_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// reasonTables are tables in which every rule comes up that podfence makes: of pods at an address each
// and at a shared one, with NetworkPolicies and ClusterNetworkPolicies of all tiers, with all options.
func reasonTables(t *testing.T) map[string]*nft.Table {
	t.Helper()
	tables := goldens(t)
	for name, o := range map[string]ruleset.Options{
		"drops": {Links: true, Masquerade: true, SourceCheck: true, TunnelPort: 8472, RevokedMark: 1 << 29, MaxConnections: 10, LongRun: 1},
		"rejects": {
			Guard: true, Masquerade: true, SourceCheck: true, Bridge: "podfence0", TunnelPort: 8472, RevokedMark: 1 << 29, MaxConnections: 10,
			Reject: true, AllowToNode: true,
		},
	} {
		tables[name] = &ruleset.Build(sharedModel().Intent(), o).Table
	}
	return tables
}

// sharedModel has two pods at one address, isolated, with a ClusterNetworkPolicy that passes.
func sharedModel() *policy.Model {
	m := policy.NewModel("node")
	for _, name := range []string{"web-0", "web-1"} {
		m.Apply(policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: "shop", Name: name}, Node: "node", IPs: []netip.Addr{netip.MustParseAddr("10.244.1.7")}}))
	}
	m.Apply(policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: "shop", Name: "db-0"}, Node: "node", IPs: []netip.Addr{netip.MustParseAddr("10.244.1.8")}}))
	m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}))
	subject := &policy.Selector{Namespace: "shop"}
	anybody := policy.Rule{AnyPeer: true, AnyPort: true}
	for _, name := range []string{"first", "second"} {
		m.Apply(policy.SetPolicy(policy.Policy{
			Key: policy.Key{Namespace: "shop", Name: name}, Subject: subject, Isolates: [2]bool{true, true}, Rules: [2][]policy.Rule{{anybody}, nil},
		}))
	}
	denied, passed := anybody, anybody
	denied.Action, passed.Action, passed.Index = policy.Deny, policy.Pass, 1
	denied.AnyPeer, denied.Peers = false, []policy.Selector{*subject}
	m.Apply(policy.SetPolicy(policy.Policy{
		Key: policy.Key{Name: "admin"}, Tier: policy.AdminTier, Subject: subject, Rules: [2][]policy.Rule{{denied, passed}, {denied}},
		Sections: [2][]policy.Section{{{Rules: []policy.Rule{denied, passed}}}},
	}))
	return m
}

// tells reports whether a chain is one that rules which deny lead to.
func tells(chain string) bool {
	return strings.HasPrefix(chain, "rejected") || strings.HasPrefix(chain, "denied")
}

// TestEveryDenialHasAReason: whatever rule denies a packet, it is known why.
func TestEveryDenialHasAReason(t *testing.T) {
	seen := map[flows.Reason]bool{}
	for name, table := range reasonTables(t) {
		for _, chain := range table.Chains {
			if tells(chain.Name) { // the rules that lead there have the reason
				continue
			}
			for i, rule := range chain.Rules {
				direction, reason := ruleset.ReasonOf(rule)
				v := rule.Verdict
				denies := v.Action == nft.Drop || v.Action == nft.Reject || v.Action == nft.Jump && tells(v.Chain)
				if known := slices.Contains(flows.Reasons, reason); known != denies || !denies && direction != "" {
					t.Errorf("%s, chain %s, rule %d (%s): reason %q, direction %q", name, chain.Name, i, rule.Comment(), reason, direction)
				}
				if denies && !rule.Counter {
					t.Errorf("%s, chain %s, rule %d: nothing counts what it denies", name, chain.Name, i)
				}
				if reason == flows.DefaultDeny || reason == flows.ByRule {
					if direction != flows.Ingress && direction != flows.Egress {
						t.Errorf("%s, chain %s, rule %d: %s without a direction", name, chain.Name, i, reason)
					}
				}
				seen[reason] = true
			}
		}
		for _, set := range table.Sets {
			for e, verdict := range set.Verdicts {
				if verdict.Action == nft.Drop || verdict.Action == nft.Reject {
					t.Errorf("%s: map %s denies %v itself, which nothing counts", name, set.Name, e)
				}
			}
		}
	}
	for _, reason := range flows.Reasons {
		if !seen[reason] && reason != flows.Changed { // which no rule has
			t.Errorf("no rule denies for the reason %s: the tables are not all there are", reason)
		}
	}
}

// TestCountOf: the counters of a policy's rules are that policy's, and that of a default deny is of all
// policies that isolate the pod, at an address of its own and at a shared one. A rule that passes counts for
// nobody.
func TestCountOf(t *testing.T) {
	table := ruleset.Build(sharedModel().Intent(), ruleset.Options{})
	type counted struct {
		policy    string
		direction flows.Direction
		verdict   flows.Verdict
	}
	have := map[bool]map[counted]int{true: {}, false: {}}
	for _, chain := range table.Chains {
		for _, rule := range chain.Rules {
			count, ok := ruleset.CountOf(table.Chains, chain.Name, rule)
			if !ok {
				continue
			}
			for _, key := range count.Policies {
				have[strings.Contains(chain.Name, "shared-")][counted{key.String(), count.Direction, count.Verdict}]++
			}
		}
	}
	// Two pods share an address, so that their rules are there twice; the rules of db-0's chain, and of the
	// policies' own, are there for each pod that has a chain.
	want := map[counted]int{
		{"shop/first", flows.Ingress, flows.Allowed}: 2, {"shop/second", flows.Ingress, flows.Allowed}: 2,
		{"shop/first", flows.Ingress, flows.Denied}: 2, {"shop/second", flows.Ingress, flows.Denied}: 2,
		{"shop/first", flows.Egress, flows.Denied}: 2, {"shop/second", flows.Egress, flows.Denied}: 2,
		{"/admin", flows.Ingress, flows.Denied}: 4, {"/admin", flows.Egress, flows.Denied}: 4,
	}
	if diff := cmp.Diff(want, have[true], cmp.AllowUnexported(counted{})); diff != "" {
		t.Errorf("at the shared address (-want +have):\n%s", diff)
	}
	want = map[counted]int{
		{"shop/first", flows.Ingress, flows.Allowed}: 1, {"shop/second", flows.Ingress, flows.Allowed}: 1,
		{"shop/first", flows.Ingress, flows.Denied}: 3, {"shop/second", flows.Ingress, flows.Denied}: 3,
		{"shop/first", flows.Egress, flows.Denied}: 3, {"shop/second", flows.Egress, flows.Denied}: 3,
		{"/admin", flows.Ingress, flows.Denied}: 2, {"/admin", flows.Egress, flows.Denied}: 2,
	}
	if diff := cmp.Diff(want, have[false], cmp.AllowUnexported(counted{})); diff != "" {
		t.Errorf("in the other chains (-want +have):\n%s", diff)
	}
}

// TestInvalidHasADirection: what is refused because connection tracking calls it invalid is told with the
// direction and the pod, whichever kind of policies is about the pod, and counts for no policy.
func TestInvalidHasADirection(t *testing.T) {
	pod := policy.Key{Namespace: "shop", Name: "db-0"}
	subject := &policy.Selector{Namespace: "shop"}
	anybody := policy.Rule{AnyPeer: true, AnyPort: true}
	for name, p := range map[string]policy.Policy{
		"NetworkPolicy":        {Key: policy.Key{Namespace: "shop", Name: "db"}, Subject: subject, Isolates: [2]bool{true, true}},
		"ClusterNetworkPolicy": {Key: policy.Key{Name: "admin"}, Tier: policy.AdminTier, Subject: subject, Rules: [2][]policy.Rule{{anybody}, {anybody}}},
	} {
		m := policy.NewModel("node")
		m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}))
		m.Apply(policy.SetPod(&policy.Pod{Key: pod, Node: "node", IPs: []netip.Addr{netip.MustParseAddr("10.244.1.8")}}))
		m.Apply(policy.SetPolicy(p))
		table := ruleset.Build(m.Intent(), ruleset.Options{LogGroup: 1})
		for direction, ends := range map[flows.Direction][2]string{flows.Ingress: {"192.0.2.7", "10.244.1.8"}, flows.Egress: {"10.244.1.8", "192.0.2.7"}} {
			packet := policy.Packet{Src: netip.MustParseAddr(ends[0]), Dst: netip.MustParseAddr(ends[1]), Protocol: policy.TCP, DstPort: 80, HopLimit: 64}
			logged := nft.Logged{Family: nft.Inet, Hook: nft.Forward, Prefix: "denied-invalid", Packet: nft.TracePacket{Packet: packet, State: nft.Invalid}}
			want := ruleset.Denial{
				Direction: direction, Reason: flows.Invalid, Pod: pod, Text: string(direction) + " of shop/db-0: invalid by connection tracking",
			}
			if diff := cmp.Diff(want, table.DenialOf(logged)); diff != "" {
				t.Errorf("%s, %s (-want +have):\n%s", name, direction, diff)
			}
		}
		for _, chain := range table.Chains {
			for _, rule := range chain.Rules {
				if _, reason := ruleset.ReasonOf(rule); reason != flows.Invalid {
					continue
				}
				if count, ok := ruleset.CountOf(table.Chains, chain.Name, rule); ok {
					t.Errorf("%s: what is invalid counts for %+v", name, count)
				}
			}
		}
	}
}
