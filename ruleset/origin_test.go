package ruleset_test

import (
	"math/rand"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/random"
)

// TestOrigins: a policy's rule and a pod's have their origin as a value, wherever they are, and
// every other rule that drops says in a sentence why, but for what is invalid.
func TestOrigins(t *testing.T) {
	rules, pods, invalid := 0, 0, 0
	for seed := range random.Seeds(*seed, *histories/4) {
		s := random.Cluster(rand.New(rand.NewSource(seed)), 12, 8)
		in, _ := policy.Compile(s, random.Node)
		for name, chain := range ruleset.Build(in, ruleset.Options{RevokedMark: 1, LongRun: int(seed % 3)}).Chains {
			for _, rule := range chain.Rules {
				switch origin := rule.Origin.(type) {
				case ruleset.PolicyRule:
					rules++
					p, there := in.Policies[origin.Policy]
					if !there || !slices.ContainsFunc(p.Rules[origin.Direction], func(r policy.Rule) bool { return r.Index == origin.Index }) {
						t.Errorf("seed %d: chain %s: %+v is no policy's", seed, name, origin)
					}
				case ruleset.Isolated:
					pods++
					if s, there := in.Subjects[origin.Pod]; !there || !s.Isolated[origin.Direction] || !strings.Contains(name, origin.Direction.String()) {
						t.Errorf("seed %d: chain %s: %+v is no pod's", seed, name, origin)
					}
				case ruleset.InvalidFor:
					invalid++
					if s, there := in.Subjects[origin.Pod]; !there || !s.Fenced(origin.Direction) || !slices.Equal(rule.Matches, []nft.Match{nft.Invalid}) {
						t.Errorf("seed %d: chain %s: %+v is no pod's", seed, name, origin)
					}
				case ruleset.IsolatedBy:
					if p, there := in.Policies[origin.Policy]; !there || rule.Verdict.Action != nft.Jump {
						t.Errorf("seed %d: chain %s: %s leads to policy %s", seed, name, rule, p.Key)
					}
				case ruleset.InStack:
					if p, there := in.Policies[origin.Policy]; !there || rule.Verdict.Action != nft.Jump || p.Tier == policy.NetworkPolicyTier {
						t.Errorf("seed %d: chain %s: %s leads to ClusterNetworkPolicy %s", seed, name, rule, p.Key)
					}
				case ruleset.InTier:
					if rule.Verdict.Action != nft.Jump || !strings.HasPrefix(rule.Verdict.Chain, origin.Tier.String()+"-"+origin.Direction.String()) {
						t.Errorf("seed %d: chain %s: %s leads to the tier %s", seed, name, rule, origin.Tier)
					}
				case nil:
					// The chain that both directions have in common is no pod's.
					common := name == "beginnings" && slices.Equal(rule.Matches, []nft.Match{nft.Invalid})
					if rule.Verdict.Action == nft.Drop && !common {
						t.Errorf("seed %d: chain %s: %s has no origin", seed, name, rule)
					}
				}
			}
		}
	}
	if rules < 100 || pods < 100 || invalid < 100 {
		t.Errorf("only %d rules of policies, %d of isolated pods and %d of what is invalid are seen", rules, pods, invalid)
	}
}

// TestDeniedNamesAreWhole: those that are too long for a chain's name, too.
func TestDeniedNamesAreWhole(t *testing.T) {
	pod, deny := policy.Key{Namespace: "shop", Name: strings.Repeat("p", 200)}, policy.Key{Namespace: "shop", Name: strings.Repeat("d", 200)}
	m := policy.NewModel("node")
	addr := netip.MustParseAddr("10.244.1.7")
	m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}))
	m.Apply(policy.SetPod(&policy.Pod{Key: pod, Node: "node", IPs: []netip.Addr{addr}}))
	m.Apply(policy.SetPolicy(policy.Policy{Key: deny, Subject: &policy.Selector{Namespace: "shop"}, Isolates: [2]bool{true, false}}))
	table := ruleset.Build(m.Intent(), ruleset.Options{})
	trace := table.Trace(nft.Forward, nft.TracePacket{Packet: policy.Packet{Src: netip.MustParseAddr("192.0.2.7"), Dst: addr, Protocol: policy.TCP}, State: nft.New})
	if got, want := table.Denied(trace), "ingress of "+pod.String()+", by "+deny.String(); got != want {
		t.Errorf("denied is %q, want %q", got, want)
	}
}
