package ruleset_test

import (
	"fmt"
	"maps"
	"math/rand"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/random"
)

// clusterPolicy is a ClusterNetworkPolicy about the pods of a namespace team=TEAM, or all if that is
// empty, with these rules for ingress.
func clusterPolicy(name string, tier policy.Tier, priority int32, team string, rules ...policy.Rule) policy.Change {
	subject := &policy.Selector{}
	if team != "" {
		subject.Namespaces = "team=" + team
	}
	for i := range rules {
		rules[i].Index = i
	}
	p := policy.Policy{Key: policy.Key{Name: name}, Tier: tier, Priority: priority, Subject: subject}
	p.Rules[policy.Ingress] = rules
	return policy.SetPolicy(p.Divided())
}

// about is a rule about a team's pods.
func about(action policy.Action, team string) policy.Rule {
	return policy.Rule{Action: action, Peers: []policy.Selector{{Namespaces: "team=" + team}}, AnyPort: true}
}

func stackPods(m *policy.Model, team string, n, from int) {
	m.Apply(policy.SetNamespace(policy.Namespace{Name: team, Labels: map[string]string{"team": team}}))
	for i := range n {
		m.Apply(policy.SetPod(&policy.Pod{
			Key: policy.Key{Namespace: team, Name: fmt.Sprintf("pod-%d", i)}, Node: "node", IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, byte(from + i)})},
		}))
	}
}

// TestStackIsShared: pods with the same ClusterNetworkPolicies share a chain for each tier, which comes
// with the first of them and goes with the last.
func TestStackIsShared(t *testing.T) {
	m := policy.NewModel("node")
	stackPods(m, "red", 100, 1)
	stackPods(m, "blue", 50, 101)
	m.Apply(
		clusterPolicy("all", policy.AdminTier, 1, "", about(policy.Deny, "evil")),
		clusterPolicy("red", policy.AdminTier, 0, "red", about(policy.Accept, "blue")),
		clusterPolicy("base", policy.BaselineTier, 0, "", about(policy.Deny, "evil")),
	)
	table := ruleset.Build(m.Intent(), ruleset.Options{})
	count := func(prefix string) (n int) {
		for name := range table.Chains {
			if strings.HasPrefix(name, prefix) {
				n++
			}
		}
		return n
	}
	if admin, baseline, policies := count("admin-ingress-"), count("baseline-ingress-"), count("cluster-policy-ingress-"); admin != 2 || baseline != 1 || policies != 3 {
		t.Errorf("%d chains of the admin tier, %d of the baseline tier, %d of policies", admin, baseline, policies)
	}
	m.Apply(policy.DeletePolicy(policy.Key{Name: "red"}))
	for {
		table.Update(m.Take())
		if !m.Pending() {
			break
		}
	}
	if admin, policies := count("admin-ingress-"), count("cluster-policy-ingress-"); admin != 1 || policies != 2 {
		t.Errorf("%d chains of the admin tier, %d of policies, after one has gone", admin, policies)
	}
	m.Apply(policy.DeletePolicy(policy.Key{Name: "all"}), policy.DeletePolicy(policy.Key{Name: "base"}))
	for {
		table.Update(m.Take())
		if !m.Pending() {
			break
		}
	}
	if n := count("admin-") + count("baseline-") + count("cluster-policy-") + count("ingress-HASH"); n != 0 {
		t.Errorf("%d chains are left", n)
	}
}

// TestDeniedByClusterPolicy: the log names the pod, the policy and the rule.
func TestDeniedByClusterPolicy(t *testing.T) {
	m := policy.NewModel("node")
	stackPods(m, "red", 1, 1)
	stackPods(m, "evil", 1, 2)
	deny := about(policy.Deny, "evil")
	deny.Name = "no evil"
	m.Apply(clusterPolicy("guard", policy.AdminTier, 1, "red", about(policy.Pass, "blue"), deny))
	table := ruleset.Build(m.Intent(), ruleset.Options{})
	p := policy.Packet{Src: netip.MustParseAddr("10.244.1.2"), Dst: netip.MustParseAddr("10.244.1.1"), Protocol: policy.TCP, DstPort: 80, HopLimit: 64}
	tr := table.Trace(nft.Forward, nft.TracePacket{Packet: p, State: nft.New})
	if got, want := table.Denied(tr), "ingress of red/pod-0, by ClusterNetworkPolicy ingress[1] of guard: no evil"; got != want {
		t.Errorf("%q, not %q\n%s", got, want, tr)
	}
}

// TestIndexFollows: whether rules are found by the peer's address or met one after the other, the same
// passes, and the table that is kept up to date is the one that is built from scratch: as pods, rules
// and policies change.
func TestIndexFollows(t *testing.T) {
	teams := []string{"red", "blue", "green", "grey"}
	for seed := range random.Seeds(*seed, *histories/10) {
		r := rand.New(rand.NewSource(seed))
		m := policy.NewModel("node")
		pod := func(i int) policy.Change {
			team, node := teams[r.Intn(len(teams))], "node"
			if i%2 == 1 && i < 6 {
				node = "other"
			}
			return policy.SetPod(&policy.Pod{
				Key: policy.Key{Namespace: "shop", Name: fmt.Sprint("pod-", i)}, Node: node, Labels: policy.LabelsOf(map[string]string{"team": team, team: "yes"}),
				IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, byte(i / 2 * 2)})}, // two share an address; of pods 0 to 5, one of these is elsewhere
			})
		}
		rule := func() policy.Rule {
			rule := policy.Rule{Action: policy.Action(r.Intn(3)), Name: fmt.Sprint(r.Intn(3)), AnyPort: r.Intn(2) == 0}
			for range 1 + r.Intn(2) {
				rule.Peers = append(rule.Peers, policy.Selector{Pods: teams[r.Intn(len(teams))]})
			}
			slices.SortFunc(rule.Peers, policy.Selector.Compare)
			rule.Peers = slices.Compact(rule.Peers)
			if r.Intn(6) == 0 {
				rule.Blocks = policy.MergeRanges(policy.Subtract(netip.MustParsePrefix("10.244.1.0/29"), nil))
			}
			if !rule.AnyPort {
				rule.Ports = []policy.PortRange{{Protocol: policy.TCP, First: uint16(80 + r.Intn(3)), Last: 82}}
			}
			return rule
		}
		subjects := []string{"", "", "", "red"}
		change := func() policy.Change {
			name := fmt.Sprint("policy-", r.Intn(4))
			if r.Intn(8) == 0 {
				return policy.DeletePolicy(policy.Key{Name: name})
			}
			p := policy.Policy{Key: policy.Key{Name: name}, Tier: policy.AdminTier, Priority: int32(r.Intn(2)), Subject: &policy.Selector{Pods: subjects[r.Intn(len(subjects))]}}
			for i := range r.Intn(6) {
				rule := rule()
				rule.Index = i
				p.Rules[policy.Ingress] = append(p.Rules[policy.Ingress], rule)
			}
			return policy.SetPolicy(p.Divided())
		}
		m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}))
		for i := range 10 {
			m.Apply(pod(i))
		}
		o := ruleset.Options{LongRun: 1 + int(seed%3), RevokedMark: 1}
		table := ruleset.Build(m.Intent(), o)
		fake := newFake(t)
		fake.apply(table.Replacement())
		for step := range 40 {
			if r.Intn(3) == 0 {
				m.Apply(change())
			} else {
				m.Apply(pod(r.Intn(10)))
			}
			for first := true; first || m.Pending(); first = false {
				fake.apply(table.Update(m.Take()))
			}
			intent := m.Intent()
			if diff := cmp.Diff(ruleset.Build(intent, o).Text(), table.Text()); diff != "" {
				t.Fatalf("seed %d, step %d: the updated table is not the built one (-built +updated):\n%s", seed, step, diff)
			}
			if diff := cmp.Diff(table.Text(), fake.text()); diff != "" {
				t.Fatalf("seed %d, step %d: plans made another table (-want +have):\n%s", seed, step, diff)
			}
			linear := ruleset.Build(intent, ruleset.Options{RevokedMark: 1})
			for src := range byte(10) {
				for dst := range byte(10) {
					for port := range uint16(3) {
						p := nft.TracePacket{State: nft.New, Packet: policy.Packet{
							Src: netip.AddrFrom4([4]byte{10, 244, 1, src}), Dst: netip.AddrFrom4([4]byte{10, 244, 1, dst}), Protocol: policy.TCP, DstPort: 80 + port, HopLimit: 64,
						}}
						if want, have := linear.Trace(nft.Forward, p), table.Trace(nft.Forward, p); want.Verdict != have.Verdict {
							t.Fatalf("seed %d, step %d: %s:\n%s\nbut by the index\n%s", seed, step, p.Packet, want, have)
						}
					}
				}
			}
		}
	}
}

// TestSharedStack: where several pods may have an address, each of them must let a packet pass: by its
// ClusterNetworkPolicies of both tiers, and by its NetworkPolicies.
func TestSharedStack(t *testing.T) {
	passed, denied := 0, 0
	for seed := range random.Seeds(*seed, *histories*4) {
		r := rand.New(rand.NewSource(seed))
		addr := netip.AddrFrom4([4]byte{10, 244, 1, 1})
		pod := func(name string) policy.Change {
			return policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: "shop", Name: name}, Node: "node", Labels: policy.LabelsOf(map[string]string{name: "yes"}), IPs: []netip.Addr{addr}})
		}
		var policies []policy.Change
		rule := func(i int, action policy.Action) policy.Rule {
			rule := policy.Rule{Index: i, Action: action, AnyPeer: true, AnyPort: r.Intn(5) == 0}
			if !rule.AnyPort {
				first := uint16(80 + r.Intn(4))
				rule.Ports = []policy.PortRange{{Protocol: policy.TCP, First: first, Last: first + uint16(r.Intn(2))}}
			}
			return rule
		}
		subjects := []string{"", "red", "blue"}
		for i := range 1 + r.Intn(5) {
			p := policy.Policy{Key: policy.Key{Name: fmt.Sprint("policy-", i)}, Tier: policy.ClusterTiers[r.Intn(2)], Priority: int32(i), Subject: &policy.Selector{Pods: subjects[r.Intn(3)]}}
			for j := range r.Intn(4) {
				p.Rules[policy.Ingress] = append(p.Rules[policy.Ingress], rule(j, policy.Action(r.Intn(3))))
			}
			policies = append(policies, policy.SetPolicy(p.Divided()))
		}
		for i := range r.Intn(3) {
			p := policy.Policy{Key: policy.Key{Namespace: "shop", Name: fmt.Sprint("policy-", i)}, Subject: &policy.Selector{Namespace: "shop", Pods: subjects[r.Intn(3)]}, Isolates: [2]bool{true, false}}
			p.Rules[policy.Ingress] = []policy.Rule{rule(0, policy.Accept)}
			policies = append(policies, policy.SetPolicy(p))
		}
		tableOf := func(pods ...string) *ruleset.Table {
			m := policy.NewModel("node")
			m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}))
			m.Apply(policies...)
			for _, name := range pods {
				m.Apply(pod(name))
			}
			return ruleset.Build(m.Intent(), ruleset.Options{})
		}
		red, blue, both := tableOf("red"), tableOf("blue"), tableOf("red", "blue")
		for port := range uint16(6) {
			p := nft.TracePacket{State: nft.New, Packet: policy.Packet{Src: netip.MustParseAddr("192.0.2.1"), Dst: addr, Protocol: policy.TCP, DstPort: 79 + port, HopLimit: 64}}
			one, other, have := red.Trace(nft.Forward, p), blue.Trace(nft.Forward, p), both.Trace(nft.Forward, p)
			want := one.Verdict == nft.Accept && other.Verdict == nft.Accept
			if want != (have.Verdict == nft.Accept) {
				t.Fatalf("seed %d, port %d: one pod:\n%s\nthe other:\n%s\nboth:\n%s", seed, p.DstPort, one, other, have)
			}
			if want {
				passed++
			} else {
				denied++
			}
		}
	}
	if passed < 100 || denied < 100 {
		t.Errorf("only %d packets passed, and %d did not", passed, denied)
	}
}

// TestQuarantineOpensNothing: whichever policies are quarantined, of every kind and tier, the table is one
// that the kernel takes, and lets nothing pass that it did not let pass before.
func TestQuarantineOpensNothing(t *testing.T) {
	closed, quarantined := 0, map[policy.Tier]int{}
	for seed := range random.Seeds(*seed, *histories) {
		r := rand.New(rand.NewSource(seed))
		s := random.Cluster(r, 12, 8)
		in, _ := policy.Compile(s, random.Node)
		keys := map[policy.Key]struct{}{}
		// In one order, so that a seed means the same each time.
		for _, key := range slices.SortedFunc(maps.Keys(in.Policies), func(a, b policy.Key) int { return strings.Compare(a.String(), b.String()) }) {
			if r.Intn(2) == 0 {
				keys[key] = struct{}{}
				quarantined[in.Policies[key].Tier]++
			}
		}
		o := ruleset.Options{LongRun: int(seed % 3)}
		before, after := ruleset.Build(in, o), ruleset.Build(in.Quarantine(keys), o)
		newFake(t).apply(after.Replacement())
		for range 60 {
			p := nft.TracePacket{State: nft.New, Packet: random.Packet(r, s)}
			was, is := before.Trace(nft.Forward, p), after.Trace(nft.Forward, p)
			if is.Verdict == nft.Accept && was.Verdict != nft.Accept {
				t.Fatalf("seed %d: with %v quarantined %s passes:\n%s\nbefore:\n%s", seed, keys, p.Packet, is, was)
			}
			if is.Verdict != was.Verdict {
				closed++
			}
		}
	}
	if closed < 50 || min(quarantined[policy.AdminTier], quarantined[policy.NetworkPolicyTier], quarantined[policy.BaselineTier]) < 20 {
		t.Errorf("only %d packets were closed; quarantined were, by tier, %v", closed, quarantined)
	}
}

// TestAffectedByDenial: where rules deny a selector's pods, a pod that it comes to mean may be denied what
// was allowed. Where they accept them, it may not.
func TestAffectedByDenial(t *testing.T) {
	for _, o := range []ruleset.Options{{}, {LongRun: 1}} {
		for _, action := range []policy.Action{policy.Accept, policy.Deny, policy.Pass} {
			m := policy.NewModel("node")
			stackPods(m, "red", 1, 1)
			rule := policy.Rule{Action: action, Peers: []policy.Selector{{Pods: "app=evil"}}, AnyPort: true}
			m.Apply(clusterPolicy("policy", policy.AdminTier, 0, "red", rule))
			pod := policy.Pod{Key: policy.Key{Namespace: "red", Name: "peer"}, Node: "other", IPs: []netip.Addr{netip.MustParseAddr("10.244.2.1")}}
			before := pod
			m.Apply(policy.SetPod(&before))
			table := ruleset.Build(m.Intent(), o)
			pod.Labels = policy.LabelsOf(map[string]string{"app": "evil"})
			m.Apply(policy.SetPod(&pod))
			closes, affected := table.Affected(m.Take())[pod.IPs[0]]
			if !affected || closes != (action != policy.Accept) {
				t.Errorf("%s, %+v: affected %t, may be denied %t", action, o, affected, closes)
			}
		}
	}
}

// TestIndexAsksFirst: who may be one of several pods is denied before the first policy that asks who he
// is, also where the rules of this policy and of the one before it would be found by the peer's address.
func TestIndexAsksFirst(t *testing.T) {
	for _, o := range []ruleset.Options{{}, {LongRun: 1}} {
		m := policy.NewModel("node")
		stackPods(m, "red", 1, 1)
		peers := map[string]netip.Addr{"early": netip.MustParseAddr("10.244.2.1"), "late": netip.MustParseAddr("fd00:244:2::2")}
		for app, addr := range peers {
			for _, name := range []string{app + "-0", app + "-1"} {
				m.Apply(policy.SetPod(&policy.Pod{
					Key: policy.Key{Namespace: "red", Name: name}, Node: "other", Labels: policy.LabelsOf(map[string]string{"app": app}), IPs: []netip.Addr{addr},
				}))
			}
		}
		server := netip.MustParseAddr("fd00:244:1::1")
		m.Apply(policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: "red", Name: "pod-0"}, Node: "node", IPs: []netip.Addr{netip.MustParseAddr("10.244.1.1"), server}}))
		rule := func(action policy.Action, app string) policy.Rule {
			return policy.Rule{Action: action, Peers: []policy.Selector{{Pods: "app=" + app}}, AnyPort: true}
		}
		m.Apply(
			clusterPolicy("a", policy.AdminTier, 0, "red", rule(policy.Accept, "early")),
			clusterPolicy("b", policy.AdminTier, 1, "red", rule(policy.Accept, "late"), rule(policy.Deny, "evil")),
		)
		table := ruleset.Build(m.Intent(), o)
		for app, src := range peers {
			dst := server
			if src.Is4() {
				dst = netip.MustParseAddr("10.244.1.1")
			}
			tr := table.Trace(nft.Forward, nft.TracePacket{State: nft.New, Packet: policy.Packet{Src: src, Dst: dst, Protocol: policy.TCP, DstPort: 80, HopLimit: 64}})
			if passes := tr.Verdict == nft.Accept; passes != (app == "early") {
				t.Errorf("%+v: %s passes: %t\n%s", o, app, passes, tr)
			}
		}
	}
}
