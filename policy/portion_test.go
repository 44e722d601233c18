package policy_test

import (
	"fmt"
	"maps"
	"math/rand"
	"net/netip"
	"slices"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// whole checks that what the policies of an intent name is there, as far as somebody still
// asks for it, and that each subject's policies are.
func whole(t *testing.T, have, want policy.Intent) {
	t.Helper()
	for _, s := range have.Subjects {
		for _, d := range policy.Directions {
			for _, key := range s.Isolating[d] {
				if p, there := have.Policies[key]; !there || !p.Isolates[d] || !s.Isolated[d] {
					t.Errorf("%s is isolated by %s, of which nothing is there for %s", s.Key, key, d)
				}
			}
		}
	}
	for _, s := range have.Subjects {
		for _, d := range policy.Directions {
			for _, tier := range policy.ClusterTiers {
				for _, key := range s.Stack(tier, d) {
					if p, there := have.Policies[key]; !there || p.Tier != tier || len(p.Rules[d]) == 0 {
						t.Errorf("%s has %s in its tier %s for %s, of which nothing is there", s.Key, key, tier, d)
					}
				}
			}
		}
	}
	for key, rules := range have.Sections {
		for _, rule := range rules {
			for _, s := range rule.Peers {
				if _, there := have.Peers[s]; !there {
					t.Errorf("section %s names %s, which is not there", key, s)
				}
			}
			for _, n := range rule.NamedPorts {
				if _, there := have.NamedPorts[n]; !there {
					t.Errorf("section %s names %s, which is not there", key, n)
				}
			}
		}
	}
	for key, p := range have.Policies {
		for _, d := range policy.Directions {
			for _, section := range p.Sections[d] {
				if section.Name == "" {
					continue // not handed out on its own
				}
				at := policy.SectionKey{Policy: key, Direction: d, Name: section.Name}
				if rules := have.Sections[at]; differ(section.Rules, rules) != "" {
					t.Errorf("%s is in force without %s", key, at)
				}
			}
			for _, rule := range p.Rules[d] {
				for _, s := range rule.Peers {
					members, there := have.Peers[s]
					if wanted, is := want.Peers[s]; !there || is && differ(wanted, members) != "" {
						t.Errorf("%s: %s has %v, want %v", key, s, members, wanted)
					}
				}
				for _, n := range rule.NamedPorts {
					members, there := have.NamedPorts[n]
					if wanted, is := want.NamedPorts[n]; !there || is && differ(wanted, members) != "" {
						t.Errorf("%s: %s has %v, want %v", key, n, members, wanted)
					}
				}
			}
		}
	}
}

// settled checks that an intent is as it should be, if nothing of it waits, and ends a test
// that has failed.
func settled(t *testing.T, m *policy.Model, want, have policy.Intent, when string) {
	t.Helper()
	if diff := differ(want, have); diff != "" && !m.Pending() {
		t.Fatalf("%s (-want +have):\n%s", when, diff)
	}
	if t.Failed() {
		t.Fatal(when)
	}
}

// TestPortions goes through random histories by deltas that have next to no room: at each
// moment what is in force is whole, no pod is under rules that are for others, and in the end
// it is what Compile says.
func TestPortions(t *testing.T) {
	waited, divided := 0, 0
	for seed := range random.Seeds(*seed, *histories/2) {
		r := rand.New(rand.NewSource(seed))
		history := random.History(r, 60)
		m := policy.NewModel(random.Node)
		have, rulers := m.Intent(), rulers{}
		for done := range history {
			m.Apply(history[done].Change())
			want, _ := policy.Compile(random.Snapshot(history[:done+1]), random.Node)
			take := func(room int) {
				d := policy.TakeSome(m, room)
				apply(t, &have, d)
				whole(t, have, want)
				rulers.check(t, have, want, d)
			}
			take(1 + r.Intn(3))
			for m.Pending() && (done == len(history)-1 || r.Intn(3) == 0) {
				waited++
				divided += min(1, len(have.Sections))
				take(1)
			}
			settled(t, m, want, have, fmt.Sprintf("seed %d, after %d events", seed, done+1))
		}
	}
	if waited < *histories || divided < *histories/8 {
		t.Errorf("%d portions, %d of them with sections, are too few to tell", waited, divided)
	}
}

// TestPortionsMet goes through random histories by deltas with next to no room for changes of
// sets that packets meet: in none of them does somebody come into a set before all have left
// that should, or for sets by which something is denied, leave before all have come. In the end all
// is what Compile says.
func TestPortionsMet(t *testing.T) {
	waited := 0
	for seed := range random.Seeds(*seed, *histories/5) {
		r := rand.New(rand.NewSource(seed))
		history := random.History(r, 60)
		m := policy.NewModel(random.Node)
		have := m.Intent()
		for done := range history {
			m.Apply(history[done].Change())
			want, _ := policy.Compile(random.Snapshot(history[:done+1]), random.Node)
			for first := true; first || m.Pending() && (done == len(history)-1 || r.Intn(2) == 0); first = false {
				met, closing := peersOf(have)
				_, toClose := peersOf(want)
				d := policy.TakeMet(m, 1+r.Intn(3))
				apply(t, &have, d)
				for s, change := range d.Peers {
					wanted, named := want.Peers[s]
					if !met[s] || !named {
						continue
					}
					if closing[s] || toClose[s] {
						if member, is := other(wanted, have.Peers[s]); is && len(change.Remove) > 0 {
							t.Errorf("%v leave %s before %s has come", change.Remove, s, member)
						}
					} else if member, is := other(have.Peers[s], wanted); is && len(change.Add) > 0 {
						t.Errorf("%v come into %s before %s has left", change.Add, s, member)
					}
				}
				waited += min(1, len(d.Peers))
			}
			settled(t, m, want, have, fmt.Sprintf("seed %d, after %d events", seed, done+1))
		}
	}
	if waited < *histories/5 {
		t.Errorf("%d portions are too few to tell", waited)
	}
}

// peersOf are the selectors that the rules of an intent's policies name, and those of them that rules
// name which do not accept.
func peersOf(in policy.Intent) (named, closing map[policy.Selector]bool) {
	named, closing = map[policy.Selector]bool{}, map[policy.Selector]bool{}
	for _, p := range in.Policies {
		for _, d := range policy.Directions {
			for _, rule := range p.Rules[d] {
				for _, s := range rule.Peers {
					named[s] = true
					closing[s] = closing[s] || rule.Action != policy.Accept
				}
			}
		}
	}
	return named, closing
}

// other is a member of the one set that is not in the other.
func other(of, than map[netip.Addr]struct{}) (member netip.Addr, is bool) {
	for member := range of {
		if _, in := than[member]; !in {
			return member, true
		}
	}
	return member, false
}

// crowd is a model of so many pods, of which the first of each of two namespaces is on the
// node.
func crowd(pods int) *policy.Model {
	m := policy.NewModel("node")
	for i := range pods {
		node := "node"
		if i > 1 {
			node = "other"
		}
		m.Apply(policy.SetPod(&policy.Pod{
			Key: policy.Key{Namespace: []string{"shop", "bank"}[i%2], Name: fmt.Sprint(i)}, Node: node,
			Labels: policy.LabelsOf(map[string]string{"pod": fmt.Sprint(i)}),
			IPs:    []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)})},
		}))
	}
	m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}))
	m.Apply(policy.SetNamespace(policy.Namespace{Name: "bank"}))
	return m
}

// pod is a pod of another node with the i-th address.
func pod(namespace, name string, i int) *policy.Pod {
	return &policy.Pod{
		Key: policy.Key{Namespace: namespace, Name: name}, Node: "other",
		IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)})},
	}
}

func onNode(p *policy.Pod) *policy.Pod {
	p.Node = "node"
	return p
}

// wide is a policy of so many selectors that mean all pods but one each.
func wide(namespace, name string, selectors int) policy.Policy {
	var peers []policy.Selector
	for i := range selectors {
		peers = append(peers, policy.Selector{Pods: fmt.Sprintf("%s!=%d", name, i)})
	}
	return policy.Policy{
		Key: policy.Key{Namespace: namespace, Name: name}, Subject: &policy.Selector{Namespace: namespace}, Isolates: [2]bool{true, false},
		Rules: [2][]policy.Rule{{{Peers: peers, AnyPort: true}}},
	}
}

// elements counts what a delta adds and removes.
func elements(d policy.Delta) (n int) {
	for _, change := range d.Peers {
		n += len(change.Add) + len(change.Remove)
	}
	return n
}

// TestPortionSize: what a policy takes that means 200,000 pods comes in deltas that are
// small. What somebody else changes meanwhile is in the next.
func TestPortionSize(t *testing.T) {
	m := crowd(5000)
	m.Apply(policy.SetPolicy(wide("bank", "one", 1)))
	have := m.Intent()
	m.Apply(policy.SetPolicy(wide("shop", "many", 40)))
	deltas := 0
	for first := true; first || m.PendingOf("shop", nil); first = false {
		pod := &policy.Pod{
			Key: policy.Key{Namespace: "bank", Name: "new"}, Node: "other",
			IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(deltas >> 8), byte(deltas)})},
		}
		if deltas%2 == 0 { // or more would change for ever than is handed out at once
			m.Apply(policy.SetPod(pod))
		}
		d := m.Take()
		if n := elements(d); n > 5500 {
			t.Fatalf("a delta of %d elements", n)
		}
		apply(t, &have, d)
		if _, in := have.Peers[policy.Selector{Pods: "one!=0"}][pod.IPs[0]]; !in && deltas%2 == 0 {
			t.Fatal("what another namespace has changed waits")
		}
		p := have.Policies[policy.Key{Namespace: "shop", Name: "many"}]
		if !p.Isolates[policy.Ingress] {
			t.Fatal("the pods that it selects are open")
		}
		for _, rule := range p.Rules[policy.Ingress] {
			for _, s := range rule.Peers {
				if len(have.Peers[s]) < 5000 {
					t.Fatalf("the policy is in force before what it names: %v", s)
				}
			}
		}
		if m.PendingOf("bank", nil) {
			t.Fatal("it has another namespace wait")
		}
		if deltas++; deltas == 2000 {
			t.Fatal("it never comes into force")
		}
	}
	if len(have.Policies[policy.Key{Namespace: "shop", Name: "many"}].Rules[policy.Ingress]) != 1 || deltas < 40 {
		t.Errorf("%d deltas, and then %v", deltas, have.Policies)
	}
}

// TestPartialChange: a policy stays as it was until what it names now is handed out, or is
// closed if it selects others now, or isolates them for another direction.
func TestPartialChange(t *testing.T) {
	key := policy.Key{Namespace: "shop", Name: "change"}
	for name, test := range map[string]struct {
		change func(*policy.Policy)
		kept   [2]int // rules, while it waits
	}{
		"rules":           {func(*policy.Policy) {}, [2]int{1, 0}},
		"subject":         {func(p *policy.Policy) { p.Subject = &policy.Selector{Namespace: "shop", Pods: "pod"} }, [2]int{}},
		"another as well": {func(p *policy.Policy) { p.Isolates = [2]bool{true, true} }, [2]int{1, 0}},
		"the other": {func(p *policy.Policy) {
			p.Isolates, p.Rules = [2]bool{false, true}, [2][]policy.Rule{{}, p.Rules[0]}
		}, [2]int{}},
	} {
		m := crowd(100)
		before := wide("shop", "change", 1)
		m.Apply(policy.SetPolicy(before))
		have := m.Intent()
		after := wide("shop", "change", 50)
		test.change(&after)
		m.Apply(policy.SetPolicy(after))
		for first := true; first || m.Pending(); first = false {
			apply(t, &have, policy.TakeSome(m, 10))
			p := have.Policies[key]
			kept := [2]int{len(p.Rules[0]), len(p.Rules[1])}
			if p.Isolates != after.Isolates || m.Pending() && kept != test.kept {
				t.Errorf("%s: it waits as %v", name, p)
			}
			if _, there := have.Peers[before.Rules[0][0].Peers[0]]; !there && len(p.Rules[0]) == 1 && m.Pending() {
				t.Errorf("%s: what it names has gone", name)
			}
		}
		if diff := differ(after, have.Policies[key]); diff != "" {
			t.Errorf("%s: in the end (-want +have):\n%s", name, diff)
		}
		// A change taken back while it waits leaves nothing.
		m.Apply(policy.SetPolicy(wide("shop", "change", 70)))
		apply(t, &have, policy.TakeSome(m, 10))
		m.Apply(policy.DeletePolicy(key))
		drained(t, m, &have)
		if len(have.Policies)+len(have.Peers) > 0 {
			t.Errorf("%s: left are %v", name, have.Peers)
		}
	}
}

// TestPartialNamespaceLeaves: of a set of which a part is handed out, so many leave at once that
// they are looked for in another way, and come back.
func TestPartialNamespaceLeaves(t *testing.T) {
	m := crowd(2000)
	m.Apply(policy.SetNamespace(policy.Namespace{Name: "bank", Labels: map[string]string{"kind": "bank"}}))
	have := m.Intent()
	selector := policy.Selector{Namespaces: "kind=bank"}
	m.Apply(policy.SetPolicy(policy.Policy{
		Key: policy.Key{Namespace: "shop", Name: "of-namespace"}, Subject: &policy.Selector{Namespace: "shop"}, Isolates: [2]bool{true, false},
		Rules: [2][]policy.Rule{{{Peers: []policy.Selector{selector}, AnyPort: true}}},
	}))
	apply(t, &have, policy.TakeSome(m, 100))
	if n := len(have.Peers[selector]); n == 0 || n == 1000 {
		t.Fatalf("%d are handed out, want a part", n)
	}
	m.Apply(policy.SetNamespace(policy.Namespace{Name: "bank"}))
	if wrong := policy.Recount(m); wrong != nil {
		t.Error(wrong)
	}
	drained(t, m, &have)
	if n := len(have.Peers[selector]); n != 0 {
		t.Errorf("%d are left", n)
	}
	m.Apply(policy.SetNamespace(policy.Namespace{Name: "bank", Labels: map[string]string{"kind": "bank"}}))
	apply(t, &have, policy.TakeSome(m, 100))
	m.Apply(policy.SetPod(pod("bank", "new", 4000)))
	drained(t, m, &have)
	if n := len(have.Peers[selector]); n != 1001 {
		t.Errorf("%d came back, want 1001", n)
	}
	if wrong := policy.Recount(m); wrong != nil {
		t.Error(wrong)
	}
}

// TestFoundByLabel: at the start, the pods that selectors ask for are found by their labels:
// to ask each of thousands of selectors about each pod would take seconds.
func TestFoundByLabel(t *testing.T) {
	m := crowd(10)
	m.Apply(policy.SetPolicy(policy.Policy{
		Key: policy.Key{Namespace: "shop", Name: "by-label"}, Subject: &policy.Selector{Namespace: "shop"}, Isolates: [2]bool{true, false},
		Rules: [2][]policy.Rule{{{Peers: []policy.Selector{{Pods: "pod=3"}}, AnyPort: true}}},
	}))
	if found := policy.PodsByLabel(m); len(found["pod=3"]) != 1 {
		t.Errorf("found are %v, want one pod", found)
	}
}

// TestUnited: where a rule has very many selectors, it means those whom one of them means, by
// an exact label or by its key, from the start and as pods change.
func TestUnited(t *testing.T) {
	var peers []networkingv1.NetworkPolicyPeer
	for i := range 40 {
		selector := metav1.LabelSelector{MatchLabels: map[string]string{"pod": fmt.Sprint(10 * i)}}
		if i == 39 {
			selector = metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "any", Operator: metav1.LabelSelectorOpExists}}}
		}
		peers = append(peers, networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{}, PodSelector: &selector})
	}
	p, problems := policy.Parse(&networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "united"},
		Spec:       networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{From: peers}}},
	})
	if united := p.Rules[policy.Ingress][0].Peers; len(united) != 3 || problems != nil {
		t.Fatalf("they are %v, problems %v", united, problems)
	}
	m := crowd(300)
	labelled := func(name, key, value string) *policy.Pod {
		p := pod("bank", name, 400)
		p.Labels = policy.LabelsOf(map[string]string{key: value})
		return p
	}
	have := m.Intent()
	expect := func(when string, want int) {
		t.Helper()
		drained(t, m, &have)
		meant := map[netip.Addr]struct{}{}
		for _, members := range have.Peers {
			maps.Copy(meant, members)
		}
		if len(meant) != want {
			t.Errorf("%s: %d are meant, want %d", when, len(meant), want)
		}
	}
	m.Apply(policy.SetPod(labelled("key", "any", "x")))
	m.Apply(policy.SetPolicy(p))
	expect("at first", 31)
	m.Apply(policy.SetPod(labelled("key", "pod", "120")))
	expect("by another label", 31)
	m.Apply(policy.SetPod(labelled("key", "pod", "121")))
	expect("by none", 30)
	m.Apply(policy.SetPod(labelled("key", "any", "")))
	expect("by a key", 31)
}

// TestTakeReady: what has come in can be taken without more of what waits.
func TestTakeReady(t *testing.T) {
	m := crowd(3000)
	m.Apply(policy.SetPolicy(wide("bank", "one", 1)))
	have := m.Intent()
	m.Apply(policy.SetPolicy(wide("shop", "many", 10)))
	apply(t, &have, m.Take())
	m.Apply(policy.SetPod(pod("bank", "new", 4000)))
	d := m.TakeReady()
	if n := elements(d); n > 3 { // of each set that is there already
		t.Errorf("%d elements", n)
	}
	apply(t, &have, d)
	if _, in := have.Peers[policy.Selector{Pods: "one!=0"}][pod("bank", "new", 4000).IPs[0]]; !in {
		t.Error("what has come in waits")
	}
	if !m.PendingOf("shop", nil) {
		t.Error("nothing waits any more")
	}
	drained(t, m, &have)
	expectOpen(t, "in the end", have, "bank/one", "shop/many")
}

// TestPortionTurns: whoever changes a policy over and over does not keep others' from coming
// into force, whether those name few pods or many, or ports.
func TestPortionTurns(t *testing.T) {
	named := wide("bank", "named", 0)
	named.Rules[policy.Ingress] = []policy.Rule{{AnyPeer: true, NamedPorts: []policy.NamedPort{{Protocol: policy.TCP, Name: "http", Scope: policy.Local}}}}
	for name, test := range map[string]struct {
		policy policy.Policy
		within int
	}{
		"few":   {wide("bank", "few", 1), 24},
		"many":  {wide("bank", "many", 20), 500},
		"named": {named, 4},
	} {
		m := crowd(3000)
		have := m.Intent()
		m.Apply(policy.SetPolicy(test.policy))
		taken := 0
		for ; m.PendingOf("bank", nil); taken++ {
			if taken == 1000 {
				t.Fatalf("%s: it never comes into force", name)
			}
			p := wide("shop", fmt.Sprint("again-", taken), 1)
			p.Name = "again"
			m.Apply(policy.SetPolicy(p))
			apply(t, &have, m.Take())
		}
		if taken > test.within {
			t.Errorf("%s: it comes into force with delta %d, want %d", name, taken, test.within)
		}
		if !slices.Contains(open(have), "bank/"+test.policy.Name) {
			t.Errorf("%s: open are %v", name, open(have))
		}
	}
}

// TestPortionIsNotStarved: nor does it matter who has had much before others came.
func TestPortionIsNotStarved(t *testing.T) {
	m := crowd(3000)
	have := m.Intent()
	m.Apply(policy.SetPolicy(wide("shop", "first", 40)))
	for range 20 {
		apply(t, &have, m.Take())
	}
	m.Apply(policy.SetPolicy(wide("bank", "second", 40)))
	taken := 0
	for ; m.PendingOf("shop", nil); taken++ {
		apply(t, &have, m.Take())
	}
	if taken > 850 {
		t.Errorf("it waits for %d more", taken)
	}
}
