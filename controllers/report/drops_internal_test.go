package report

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// counts are a kernel's counters, and a table that says what they are of.
type counts struct {
	*counters
	table  *ruleset.Table
	kernel nft.Counters
	whole  bool
	err    error
	held   bool
	reads  int
	clock  time.Time
	asks   map[policy.Key]struct{}
	lines  []string
	frames nft.Counters
}

// newCounts has a pod that two policies isolate for ingress, of which "web" allows something.
func newCounts() *counts {
	m := policy.NewModel("node")
	m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}))
	m.Apply(policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: "shop", Name: "web-0"}, Node: "node", IPs: []netip.Addr{netip.MustParseAddr("10.244.1.7")}}))
	for _, name := range []string{"deny", "web"} {
		p := policy.Policy{Key: policy.Key{Namespace: "shop", Name: name}, Subject: &policy.Selector{Namespace: "shop"}, Isolates: [2]bool{true, false}}
		if name == "web" {
			p.Rules[policy.Ingress] = []policy.Rule{{AnyPeer: true, AnyPort: true}}
		}
		m.Apply(policy.SetPolicy(p))
	}
	c := &counts{table: ruleset.Build(m.Intent(), ruleset.Options{}), whole: true, held: true, clock: time.Unix(1, 0), asks: map[policy.Key]struct{}{}}
	c.counters = newCounters(&counters{
		frames: func() (nft.Counters, bool, error) { return c.frames, c.whole, c.err },
		read:   func() (nft.Counters, bool, error) { c.reads++; return c.kernel, c.whole, c.err },
		rules:  func() (enforcer.Rules, bool) { return enforcer.Rules{Chains: c.table.Chains}, true }, held: func(enforcer.Rules) bool { return c.held },
		asking: func() map[policy.Key]struct{} { return maps.Clone(c.asks) }, now: func() time.Time { return c.clock },
		log: funcr.New(func(_, args string) { c.lines = append(c.lines, args) }, funcr.Options{}),
	})
	c.remake(1, 0)
	return c
}

// remake makes the kernel's table anew, with rules that have other handles, and have counted nothing.
func (c *counts) remake(table, handle uint64) {
	c.kernel = nft.Counters{Table: table, Chains: map[string][]nft.Counted{}}
	for _, name := range slices.Sorted(maps.Keys(c.table.Chains)) { // so that the same rules get the same handles
		for _, rule := range c.table.Chains[name].Rules {
			handle++
			c.kernel.Chains[name] = append(c.kernel.Chains[name], nft.Counted{Handle: handle, Counter: rule.Counter})
		}
	}
}

// pass has packets come to the rules with this origin.
func (c *counts) pass(origin nft.Origin, packets uint64) {
	for name, chain := range c.table.Chains {
		for i, rule := range chain.Rules {
			if rule.Counter && rule.Origin == origin && len(rule.Matches) == 0 {
				c.kernel.Chains[name][i].Packets += packets
			}
		}
	}
}

// scrape returns all metrics, after a while.
func (c *counts) scrape(t *testing.T) map[string]float64 {
	t.Helper()
	c.clock = c.clock.Add(countersEvery)
	return gather(t, c.counters)
}

// gather returns the metrics of a collector.
func gather(t *testing.T, collector prometheus.Collector) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collector)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			name := family.GetName()
			for _, label := range metric.GetLabel() {
				name += fmt.Sprintf(" %s=%s", label.GetName(), label.GetValue())
			}
			all[name] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
		}
	}
	return all
}

var (
	denied  = ruleset.Isolated{Pod: policy.Key{Namespace: "shop", Name: "web-0"}, Direction: policy.Ingress}
	allowed = ruleset.PolicyRule{Policy: policy.Key{Namespace: "shop", Name: "web"}, Direction: policy.Ingress}
)

const defaultDeny = "podfence_drop_total direction=ingress reason=default-deny"

func (c *counts) expect(t *testing.T, when, metric string, want float64) {
	t.Helper()
	if have, is := c.scrape(t)[metric]; have != want || !is {
		t.Errorf("%s, %s is %v (there: %t), not %v", when, metric, have, is, want)
	}
}

// TestDropsAccumulate: the metric counts what rules have denied, goes on from there when they are replaced, or
// the whole table is, and never goes back.
func TestDropsAccumulate(t *testing.T) {
	c := newCounts()
	c.expect(t, "before the first packet", defaultDeny, 0)
	c.pass(denied, 5)
	c.expect(t, "after 5 packets", defaultDeny, 5)
	c.pass(denied, 2)
	c.expect(t, "after 2 more", defaultDeny, 7)
	c.remake(1, 1000)
	c.expect(t, "after the rules were replaced", defaultDeny, 7)
	c.pass(denied, 3)
	c.expect(t, "after 3 packets for the new rule", defaultDeny, 10)
	c.remake(2, 1000)
	c.pass(denied, 4)
	c.expect(t, "after 4 packets for another table's rule with the same number", defaultDeny, 14)
	c.kernel = nft.Counters{}
	c.expect(t, "without a table", defaultDeny, 14)
	c.table.Chains = map[string]*nft.Chain{}
	c.expect(t, "without any rules", defaultDeny, 14)
}

// TestDropsOfRulesThatAreNotKnown: counters that may be of other rules than those that are known are not
// counted.
func TestDropsOfRulesThatAreNotKnown(t *testing.T) {
	for what, spoil := range map[string]func(*counts){
		"the ruleset has changed meanwhile": func(c *counts) { c.whole = false },
		"the rules have changed since":      func(c *counts) { c.held = false },
		"the kernel says no":                func(c *counts) { c.err = errors.New("no") },
		"a rule too many": func(c *counts) {
			c.kernel.Chains["egress-forward"] = append(c.kernel.Chains["egress-forward"], nft.Counted{})
		},
		"a rule that does not count": func(c *counts) {
			for i := range c.kernel.Chains["egress-forward"] {
				c.kernel.Chains["egress-forward"][i].Counter = false
			}
		},
	} {
		c := newCounts()
		c.pass(denied, 5)
		c.expect(t, "at first", defaultDeny, 5)
		c.pass(denied, 5)
		spoil(c)
		c.expect(t, what, defaultDeny, 5)
		if logged := len(c.lines) > 0; logged != (c.err != nil) {
			t.Errorf("%s: the log says %v", what, c.lines)
		}
	}
}

// TestFramesAccumulate: what the bridge's table denies counts beside what the policies' table does, by its
// comments, and never goes back, whatever the numbers of the rules are.
func TestFramesAccumulate(t *testing.T) {
	const spoofed, tooMany = "podfence_drop_total direction= reason=spoofed", "podfence_drop_total direction= reason=too-many"
	c := newCounts()
	count := func(table, handle, wrong, fragments, foreign uint64) {
		c.frames = nft.Counters{Table: table, Chains: map[string][]nft.Counted{
			"a": {{Handle: handle, Counter: true, Packets: wrong, Comment: "not to the gateway, or not from the pod's own address"}, {Handle: handle + 1}},
			"b": {
				{Handle: handle + 2, Counter: true, Packets: fragments, Comment: "too many fragments"},
				{Handle: handle + 3, Counter: true, Packets: foreign, Comment: "somebody else's"}, {Handle: handle + 4, Counter: true, Packets: foreign},
			},
		}}
	}
	c.expect(t, "before the first frame", spoofed, 0)
	count(7, 1, 3, 2, 100)
	c.pass(denied, 5)
	c.expect(t, "after 3 frames", spoofed, 3)
	count(7, 1, 4, 2, 200)
	c.expect(t, "after one more", spoofed, 4)
	c.expect(t, "after 2 fragments", tooMany, 2)
	c.expect(t, "of the other table, whose rules have the same numbers", defaultDeny, 5)
	c.whole = false
	count(7, 1, 9, 9, 0)
	c.expect(t, "while the rules change", spoofed, 4)
	c.whole = true
	count(8, 1, 1, 0, 0)
	c.expect(t, "after one frame for another table's rule with the same number", spoofed, 5)
	c.frames = nft.Counters{}
	c.expect(t, "without the table", spoofed, 5)
}

// TestCountersAreReadSeldom: the kernel is asked at most every 5 seconds, however often somebody scrapes.
func TestCountersAreReadSeldom(t *testing.T) {
	c := newCounts()
	for range 10 {
		gather(t, c.counters)
		c.clock = c.clock.Add(time.Second)
	}
	if c.reads != 2 {
		t.Errorf("in 10 s the kernel was asked %d times", c.reads)
	}
}

// TestPolicyPackets: only policies that ask have series; a default deny counts for all that isolate the
// pod.
func TestPolicyPackets(t *testing.T) {
	c := newCounts()
	c.pass(denied, 5)
	c.pass(allowed, 6)
	if all := c.scrape(t); len(all) != 13 {
		t.Errorf("nobody asks, and there are %d series: %v", len(all), all)
	}
	c.asks = map[policy.Key]struct{}{{Namespace: "shop", Name: "web"}: {}}
	c.scrape(t)
	c.pass(denied, 2)
	c.pass(allowed, 3)
	const series = "podfence_policy_packets_total direction=ingress namespace=shop policy="
	for name, want := range map[string]float64{series + "web verdict=denied": 2, series + "web verdict=allowed": 3} {
		c.expect(t, "for one that asks", name, want)
	}
	c.asks[policy.Key{Namespace: "shop", Name: "deny"}] = struct{}{}
	c.pass(denied, 1)
	c.scrape(t)
	c.pass(denied, 1)
	c.expect(t, "as the first of two that isolate", series+"web verdict=denied", 4)
	c.expect(t, "as the second", series+"deny verdict=denied", 1)
	delete(c.asks, policy.Key{Namespace: "shop", Name: "web"})
	if _, is := c.scrape(t)[series+"web verdict=denied"]; is {
		t.Error("it asks no more, and has a series")
	}
}

// TestCountingIsBounded: no namespace takes all the room, who has asked first stays, and one that goes makes
// room for another.
func TestCountingIsBounded(t *testing.T) {
	var lines []string
	c := newCounting(funcr.New(func(_, args string) { lines = append(lines, args) }, funcr.Options{}))
	for i := range mostCountedOfNamespace + 1 {
		c.Set(asking("greedy", fmt.Sprint(i)))
		c.Set(asking("greedy", fmt.Sprint(i))) // again
	}
	late := policy.Key{Namespace: "greedy", Name: fmt.Sprint(mostCountedOfNamespace)}
	if n := len(c.Policies()); n != mostCountedOfNamespace || isIn(c.Policies(), late) || len(lines) != 1 {
		t.Fatalf("of one namespace, %d are counted; the log says %v", n, lines)
	}
	for i := range mostCounted {
		c.Set(asking(fmt.Sprint("modest-", i), "p"))
	}
	if n := len(c.Policies()); n != mostCounted {
		t.Errorf("of all, %d are counted", n)
	}
	c.Gone(policy.Key{Namespace: "modest-0", Name: "p"})
	if n := len(c.Policies()); n != mostCounted {
		t.Errorf("one is gone, another takes its place, and %d are counted", n)
	}
	c.Gone(policy.Key{Namespace: "greedy", Name: "0"})
	silent := asking("greedy", "1")
	silent.Annotations = nil
	c.Set(silent)
	if isIn(c.Policies(), policy.Key{Namespace: "greedy", Name: "1"}) {
		t.Error("it asks no more, and is counted")
	}
	if newCounting(logr.Discard()).count(late) != true {
		t.Error("there is room, and it is not counted")
	}
}
