package policy_test

import (
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// drained takes deltas until none is left, and returns how many elements they added.
func drained(t *testing.T, m *policy.Model, have *policy.Intent) (added int) {
	t.Helper()
	for first := true; first || m.Pending(); first = false {
		d := m.Take()
		added += elements(d)
		apply(t, have, d)
	}
	return added
}

// open are the policies of an intent that have rules, in order.
func open(in policy.Intent) (names []string) {
	for _, key := range in.WithRules() {
		names = append(names, key.String())
	}
	return names
}

func expectOpen(t *testing.T, when string, in policy.Intent, want ...string) {
	t.Helper()
	if have := open(in); !slices.Equal(have, want) {
		t.Errorf("%s: open are %v, want %v", when, have, want)
	}
}

// TestBudget: when a namespace is over its budget, its largest policies are closed, and of what
// they name no more is made than the budget has room for. All other policies go on. A policy
// that is made smaller is open again, and so is one for which others make room.
func TestBudget(t *testing.T) {
	m := crowd(1000)
	m.SetBudget(30_000)
	m.Apply(policy.SetPolicy(wide("shop", "small", 1)))
	m.Apply(policy.SetPolicy(wide("bank", "own", 1)))
	have := m.Intent()
	huge := policy.Key{Namespace: "shop", Name: "huge"}

	m.Apply(policy.SetPolicy(wide("shop", "huge", 300)))
	if added := drained(t, m, &have); added > 2*30_000 {
		t.Errorf("%d elements were made of a policy that has no room", added)
	}
	expectOpen(t, "one that is huge", have, "bank/own", "shop/small")
	if len(have.Peers) != 2 || !have.Policies[huge].Isolates[policy.Ingress] || m.OverBudget() != 1 || m.Quarantined() != 0 {
		t.Errorf("%d sets; %v; %d over budget; %d refused", len(have.Peers), have.Policies[huge], m.OverBudget(), m.Quarantined())
	}
	if p := m.Problems(huge); len(p) != 1 || !strings.Contains(p[0].Reason, "--namespace-budget") {
		t.Errorf("problems: %v", p)
	}
	if news := m.News(); !slices.Equal(news, []policy.Key{huge}) || m.News() != nil {
		t.Errorf("news: %v", news)
	}

	m.Apply(policy.SetPolicy(wide("shop", "huge", 5)))
	drained(t, m, &have)
	expectOpen(t, "made smaller", have, "bank/own", "shop/huge", "shop/small")

	m.Apply(policy.SetPolicy(wide("shop", "larger", 12)))
	drained(t, m, &have)
	expectOpen(t, "a larger one", have, "bank/own", "shop/huge", "shop/small")
	m.Apply(policy.DeletePolicy(huge))
	drained(t, m, &have)
	expectOpen(t, "room again", have, "bank/own", "shop/larger", "shop/small")
	if m.OverBudget() != 0 || m.Problems(policy.Key{Namespace: "shop", Name: "larger"}) != nil {
		t.Errorf("%d over budget", m.OverBudget())
	}
}

// TestBudgetWhole: an agent that starts with a policy that has no room comes up without it.
func TestBudgetWhole(t *testing.T) {
	m := crowd(1000)
	m.SetBudget(30_000)
	m.Apply(policy.SetPolicy(wide("shop", "huge", 1000)))
	m.Apply(policy.SetPolicy(wide("shop", "small", 1)))
	in := m.Intent()
	expectOpen(t, "at the start", in, "shop/small")
	if len(in.Peers) != 1 || m.Pending() {
		t.Errorf("%d sets", len(in.Peers))
	}
}

// TestBudgetGrows: more pods may make a policy too large.
func TestBudgetGrows(t *testing.T) {
	m := crowd(1000)
	m.SetBudget(30_000)
	m.Apply(policy.SetPolicy(wide("shop", "grows", 11)))
	m.Apply(policy.SetPolicy(wide("shop", "small", 1)))
	have := m.Intent()
	expectOpen(t, "before", have, "shop/grows", "shop/small")
	for i := 1000; i < 2000; i++ {
		m.Apply(policy.SetPod(pod("bank", fmt.Sprint(i), i)))
	}
	drained(t, m, &have)
	expectOpen(t, "after", have, "shop/small")
	for i := 1000; i < 2000; i++ {
		m.Apply(policy.DeletePod(policy.Key{Namespace: "bank", Name: fmt.Sprint(i)}))
	}
	drained(t, m, &have)
	expectOpen(t, "nobody has looked again", have, "shop/small")
	m.Reconsider()
	drained(t, m, &have)
	expectOpen(t, "room again", have, "shop/grows", "shop/small")
}

// TestBudgetNode: what all namespaces take together has a limit, too, and it is the
// largest that pays. What several share counts once.
func TestBudgetNode(t *testing.T) {
	m := crowd(1000)
	m.SetBudget(30_000)
	var names []string
	for i := range 40 {
		namespace := fmt.Sprintf("ns-%02d", i)
		m.Apply(policy.SetNamespace(policy.Namespace{Name: namespace}))
		m.Apply(policy.SetPod(onNode(pod(namespace, "pod", 2000+i))))
		shared := wide(namespace, "shared", 5)
		shared.Name = "p"
		if i >= 30 { // 30 share, 10 have their own
			shared = wide(namespace, fmt.Sprint("own-", i), 5+i%10)
			shared.Name = "p"
		}
		m.Apply(policy.SetPolicy(shared))
		names = append(names, namespace+"/p")
	}
	in := m.Intent()
	if n := m.OverBudget(); n == 0 || n > 8 {
		t.Errorf("%d are over budget", n)
	}
	expectOpen(t, "the largest pay", in, names[:40-m.OverBudget()]...)
}

// TestBudgetHistories goes through random histories with budgets that have next to no room:
// after each step all counts are those of a recount, nothing is over a budget, and what is
// in force is what Compile says, less the rules of the policies that are closed.
func TestBudgetHistories(t *testing.T) {
	closed, opened := 0, 0
	for seed := range random.Seeds(*seed, *histories/2) {
		r := rand.New(rand.NewSource(seed))
		history := random.History(r, 60)
		m := policy.NewModel(random.Node)
		m.SetBudget(300 + r.Intn(1000))
		have := m.Intent()
		for done := range history {
			was := len(policy.Over(m))
			m.Apply(history[done].Change())
			if r.Intn(10) == 0 {
				m.Reconsider()
			}
			if r.Intn(20) == 0 {
				have = m.Intent()
			} else {
				apply(t, &have, policy.TakeSome(m, 1+r.Intn(3)))
			}
			wrong := policy.Recount(m)
			want, _ := policy.Compile(random.Snapshot(history[:done+1]), random.Node)
			whole(t, have, want)
			for m.Pending() && (done == len(history)-1 || r.Intn(3) == 0) {
				apply(t, &have, policy.TakeSome(m, 1))
				wrong = append(wrong, policy.Recount(m)...)
				whole(t, have, want)
			}
			if !m.Pending() {
				if diff := differ(want.Quarantine(policy.Over(m)), have); diff != "" {
					t.Fatalf("seed %d, after %d events (-want +have):\n%s", seed, done+1, diff)
				}
			}
			if t.Failed() || len(wrong) > 0 {
				t.Fatalf("seed %d, after %d events:\n%s", seed, done+1, strings.Join(wrong, "\n"))
			}
			is := len(policy.Over(m))
			closed, opened = closed+max(0, is-was), opened+max(0, was-is)
		}
	}
	if closed < *histories*3/4 || opened < *histories/4 {
		t.Errorf("%d closings and %d openings are too few to tell", closed, opened)
	}
}

// TestBudgetsOfMany: however many namespaces and policies have no room at the start, at no time is
// more made than two of the node's budgets and one set.
func TestBudgetsOfMany(t *testing.T) {
	m := crowd(1000)
	m.SetBudget(30_000)
	for i := range 40 {
		namespace := fmt.Sprintf("ns-%02d", i)
		m.Apply(policy.SetNamespace(policy.Namespace{Name: namespace}))
		m.Apply(policy.SetPod(onNode(pod(namespace, "pod", 2000+i))))
		for j := range 3 {
			m.Apply(policy.SetPolicy(wide(namespace, fmt.Sprintf("p-%d-%d", i, j), 13)))
		}
	}
	if n := elements(policy.TakeAll(m)); n < 10_000 || n > 2*2*30_000+1100 {
		t.Errorf("%d elements were made at once", n)
	}
	if wrong := policy.Recount(m); len(wrong) > 0 {
		t.Error(strings.Join(wrong, "\n"))
	}
}

// TestBudgetKeepsWhatIsCounted: the policy that has grown over the budget is closed, not one that
// is new and small.
func TestBudgetKeepsWhatIsCounted(t *testing.T) {
	m := crowd(1000)
	m.SetBudget(30_000)
	m.Apply(policy.SetPolicy(wide("shop", "old", 10)))
	have := m.Intent()
	m.Apply(policy.SetPolicy(wide("shop", "tiny", 1)))
	m.Apply(policy.SetPolicy(wide("shop", "huge", 30)))
	drained(t, m, &have)
	expectOpen(t, "a new one that is huge", have, "shop/old", "shop/tiny")
}

// TestAllowing: a packet to a pod is shown only to the policies that allow something, as there may
// be thousands of others.
func TestAllowing(t *testing.T) {
	m := crowd(10)
	have := m.Intent()
	for i := range 3000 {
		p := wide("shop", fmt.Sprint("empty-", i), 0)
		if i%2 == 0 { // of a port that does not exist: no rule comes of it
			p.Rules[policy.Ingress] = []policy.Rule{{AnyPeer: true}}
		} else {
			p.Rules[policy.Ingress] = nil
		}
		m.Apply(policy.SetPolicy(p))
	}
	m.Apply(policy.SetPolicy(wide("shop", "allows", 1)))
	drained(t, m, &have)
	s := have.Subjects[policy.Key{Namespace: "shop", Name: "0"}]
	if !slices.Equal(s.Isolating[policy.Ingress], []policy.Key{{Namespace: "shop", Name: "allows"}}) || s.Isolated != [2]bool{true, false} || s.Isolating[policy.Egress] != nil {
		t.Errorf("%d policies of %v, isolated %v", len(s.Isolating[policy.Ingress]), s.Key, s.Isolated)
	}
}

// TestBudgetObjects: a namespace may have only so many sets and rules, however small they are,
// because one change of a pod may change all of them.
func TestBudgetObjects(t *testing.T) {
	m := crowd(10)
	have := m.Intent()
	for i := range 4 {
		m.Apply(policy.SetPolicy(wide("shop", fmt.Sprint("many-", i), 140)))
	}
	drained(t, m, &have)
	expectOpen(t, "four of 560 sets and rules", have, "shop/many-1", "shop/many-2", "shop/many-3")
	m.Apply(policy.DeletePolicy(policy.Key{Namespace: "shop", Name: "many-2"}))
	drained(t, m, &have)
	expectOpen(t, "room again", have, "shop/many-0", "shop/many-1", "shop/many-3")
}

// TestWalk: however many policies isolate a pod, a packet meets no more rules than it may;
// those with the most are closed, and a pod that they do not select is none the worse.
func TestWalk(t *testing.T) {
	m := crowd(10)
	m.SetBudget(5_000_000)
	set := func(name string, rules int, d policy.Direction, pods string) {
		p := policy.Policy{Key: policy.Key{Namespace: "shop", Name: name}, Subject: &policy.Selector{Namespace: "shop", Pods: pods}}
		p.Isolates[d] = true
		for i := range rules {
			p.Rules[d] = append(p.Rules[d], policy.Rule{Index: i, Peers: []policy.Selector{{Namespace: "shop", Pods: fmt.Sprint("a=", i)}}, AnyPort: true})
		}
		m.Apply(policy.SetPolicy(p))
	}
	m.Apply(policy.SetPod(onNode(pod("shop", "other", 500))))
	have := m.Intent()
	for i := range 4 {
		set(fmt.Sprint("some-", i), 150+i, policy.Ingress, "pod=0")
	}
	set("egress", 200, policy.Egress, "pod=0")
	set("others", 250, policy.Ingress, "pod!=0")
	drained(t, m, &have)
	expectOpen(t, "four of 300", have, "shop/egress", "shop/others", "shop/some-0", "shop/some-1", "shop/some-2")
	if p := m.Problems(policy.Key{Namespace: "shop", Name: "some-3"}); len(p) != 1 || !strings.Contains(p[0].Reason, "1000 rules") {
		t.Errorf("problems: %v", p)
	}
	m.Apply(policy.DeletePolicy(policy.Key{Namespace: "shop", Name: "some-0"}))
	drained(t, m, &have)
	expectOpen(t, "room again", have, "shop/egress", "shop/others", "shop/some-1", "shop/some-2", "shop/some-3")
}
