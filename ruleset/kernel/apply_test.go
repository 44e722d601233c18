package kernel_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
)

// verdicts are entries that send every key the same way.
func verdicts(v ruleset.Verdict, keys ...ruleset.Element) []ruleset.VerdictEntry {
	entries := make([]ruleset.VerdictEntry, len(keys))
	for i, key := range keys {
		entries[i] = ruleset.VerdictEntry{Key: key, Verdict: v}
	}
	return entries
}

// small is a table with two pods, one of them isolated.
func small() ruleset.Plan {
	return ruleset.Plan{Replace: true, Ops: []ruleset.Op{
		ruleset.AddSet{Name: "peers", Type: ruleset.Addr4},
		ruleset.AddElements{Set: "peers", Type: ruleset.Addr4, Elements: addrs("10.0.0.9")},
		ruleset.AddSet{Name: "pods", Type: ruleset.Addr4, Map: true},
		ruleset.AddChain{Name: "base", Hook: &ruleset.Hook{Point: ruleset.Forward, Priority: -10}},
		ruleset.AddChain{Name: "pod-a"},
		ruleset.SetRules{Chain: "pod-a", Rules: []ruleset.Rule{
			matches(ruleset.Verdict{}, lookup("peers", ruleset.DstAddr4)),
			{Counter: true, Verdict: ruleset.Verdict{Action: ruleset.Drop}},
		}},
		ruleset.AddVerdicts{Map: "pods", Type: ruleset.Addr4, Entries: []ruleset.VerdictEntry{
			{Key: addrs("10.0.0.1")[0], Verdict: jump("pod-a")}, {Key: addrs("10.0.0.2")[0]},
		}},
		ruleset.SetRules{Chain: "base", Rules: []ruleset.Rule{
			matches(ruleset.Verdict{Action: ruleset.Dispatch, Map: "pods", Field: ruleset.SrcAddr4}),
		}},
	}}
}

func apply(ops ...ruleset.Op) ruleset.Plan { return ruleset.Plan{Ops: ops} }

func TestEmptyPlan(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	g.Expect(n.open().Apply(ruleset.Plan{})).To(Succeed())
	g.Expect(n.list()).To(BeEmpty())
}

func TestOpenLeavesNothing(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	n.open()
	g.Expect(n.list()).To(BeEmpty())
}

// fails is an operation that the kernel refuses of a table that is small, with an
// empty set "block".
type fails struct {
	op    ruleset.Op
	errno error
	text  string
}

func failures() map[string]fails {
	prefix := func(texts ...string) ruleset.AddElements {
		return ruleset.AddElements{Set: "block", Type: ruleset.Range4, Elements: prefixes(texts...)}
	}
	return map[string]fails{
		"no such set": {
			ruleset.AddElements{Set: "none", Type: ruleset.Addr4, Elements: addrs("10.0.0.1")},
			unix.ENOENT, "add element 10.0.0.1 to set none",
		},
		"no such element": {
			ruleset.DeleteElements{Set: "peers", Type: ruleset.Addr4, Elements: addrs("10.0.0.9", "10.0.0.10")},
			unix.ENOENT, "delete elements 10.0.0.9 to 10.0.0.10 (1 to 2 of 2) from set peers",
		},
		"overlap":        {prefix("10.0.0.0/8", "10.1.0.0/16"), unix.EEXIST, "add elements 10.0.0.0/8 to 10.1.0.0/16"},
		"other verdict":  {ruleset.AddVerdicts{Map: "pods", Type: ruleset.Addr4, Entries: verdicts(jump("pod-a"), addrs("10.0.0.2")...)}, unix.EEXIST, "add element 10.0.0.2 to map pods"},
		"no such target": {ruleset.AddVerdicts{Map: "pods", Type: ruleset.Addr4, Entries: verdicts(jump("none"), addrs("10.0.0.3")...)}, unix.ENOENT, "add element 10.0.0.3 to map pods"},
		"other type":     {ruleset.AddSet{Name: "peers", Type: ruleset.Addr6}, unix.EEXIST, "add set peers"},
		"set in use":     {ruleset.DeleteSet{Name: "peers"}, unix.EBUSY, "delete set peers"},
		"chain in use":   {ruleset.DeleteChain{Name: "pod-a"}, unix.EBUSY, "delete chain pod-a"},
		"no such chain":  {ruleset.SetRules{Chain: "none"}, unix.ENOENT, "flush chain none"},
		"rule's set": {
			ruleset.SetRules{Chain: "pod-a", Rules: []ruleset.Rule{{}, matches(ruleset.Verdict{}, lookup("none", ruleset.SrcAddr4))}},
			unix.ENOENT, "add rule 2 of chain pod-a",
		},
		"loop": {
			ruleset.SetRules{Chain: "pod-a", Rules: []ruleset.Rule{matches(jump("pod-a"))}},
			unix.EMLINK, "add rule 1 of chain pod-a",
		},
	}
}

// TestFailure has an operation fail in the middle of each of these plans: the
// table must be as before, the error name the operation, the connection go on; and
// a check must say the same.
func TestFailure(t *testing.T) {
	fine := ruleset.AddSet{Name: "fine", Type: ruleset.Addr4}
	for name, test := range failures() {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			n := newNamespace(t)
			c := n.open()
			w := n.watch(c, false)
			g.Expect(c.Apply(small())).To(Succeed())
			g.Expect(c.Apply(apply(ruleset.AddSet{Name: "block", Type: ruleset.Range4}))).To(Succeed())
			before := n.list()

			plan := apply(fine, test.op, ruleset.DeleteSet{Name: "fine"})
			for name, do := range map[string]func(ruleset.Plan) error{"apply": c.Apply, "check": c.Check} {
				err := do(plan)
				g.Expect(errors.Is(err, test.errno)).To(BeTrue(), "%s: %v", name, err)
				var failed *kernel.OpError
				g.Expect(errors.As(err, &failed)).To(BeTrue())
				g.Expect(failed.Op).To(ContainSubstring(test.text))
				var refusal *ruleset.Refusal
				if passing := test.errno == unix.EBUSY; passing {
					g.Expect(errors.As(err, &refusal)).To(BeFalse(), "%s: it may be in use for the moment only", name)
				} else {
					g.Expect(errors.As(err, &refusal)).To(BeTrue(), "%s", name)
					g.Expect(refusal.Op).To(Equal(1))
				}
				g.Expect(n.list()).To(Equal(before))
			}

			// Nothing lingers: neither the failed batch's messages nor answers.
			g.Expect(c.Apply(apply(ruleset.AddSet{Name: "after", Type: ruleset.Addr4}))).To(Succeed())
			g.Expect(n.list()).NotTo(ContainSubstring("fine"))
			g.Expect(c.Apply(apply(ruleset.DeleteSet{Name: "after"}))).To(Succeed())
			g.Expect(n.list()).To(Equal(before))
			g.Expect(w.Take()).To(BeEmpty())
		})
	}
}

// TestCheck has plans checked that the kernel takes: nobody must notice.
func TestCheck(t *testing.T) {
	for name, plan := range map[string]ruleset.Plan{
		"nothing":        {},
		"an update":      apply(ruleset.AddChain{Name: "more"}, ruleset.DeleteElements{Set: "pods", Type: ruleset.Addr4, Elements: addrs("10.0.0.1")}, ruleset.DeleteChain{Name: "pod-a"}),
		"a replacement":  fenced(),
		"an empty table": {Replace: true},
		"another one's":  {Family: ruleset.Bridge, Replace: true, Ops: []ruleset.Op{ruleset.AddChain{Name: "c"}}},
		"a large one":    full(),
		"the same again": small(),
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			n := newNamespace(t)
			c := n.open()
			w := n.watch(c, false)
			g.Expect(c.Apply(small())).To(Succeed())
			before := n.nft("", "-a", "list", "ruleset") // with handles and counts
			g.Expect(c.Check(plan)).To(Succeed())
			g.Expect(c.Check(plan)).To(Succeed(), "the first has left nothing")
			g.Expect(n.nft("", "-a", "list", "ruleset")).To(Equal(before))
			g.Consistently(w.Tampered(), watchWhile).ShouldNot(Receive())
			g.Expect(c.Apply(plan)).To(Succeed())
		})
	}
}

// TestRefusedPolicy has the compiler make a table that the kernel refuses: the
// blocks of a rule are disjoint where they come from, and here they are not.
func TestRefusedPolicy(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	overlapping := []policy.AddrRange{
		{First: netip.MustParseAddr("10.0.0.0"), Last: netip.MustParseAddr("10.255.255.255")},
		{First: netip.MustParseAddr("10.1.0.0"), Last: netip.MustParseAddr("10.1.255.255")},
	}
	in := policy.NewModel("node").Intent()
	for name, blocks := range map[string][]policy.AddrRange{"bad": overlapping, "good": overlapping[:1]} {
		key := policy.Key{Namespace: "shop", Name: name}
		in.Policies[key] = policy.Policy{Key: key, Isolates: [2]bool{true}, Rules: [2][]policy.Rule{{{Blocks: blocks, AnyPort: true}}}}
	}
	bad := policy.Key{Namespace: "shop", Name: "bad"}
	plan := ruleset.Build(in, ruleset.Options{}).Replacement()
	var refusal *ruleset.Refusal
	g.Expect(errors.As(c.Check(plan), &refusal)).To(BeTrue())
	g.Expect(refusal).To(MatchError(unix.EEXIST))
	g.Expect(ruleset.Users(in, plan.Ops[refusal.Op])).To(Equal([]policy.Key{bad}))
	g.Expect(c.Apply(ruleset.Build(in.Quarantine(map[policy.Key]struct{}{bad: {}}), ruleset.Options{}).Replacement())).To(Succeed())
}

// TestInvalid has plans that are refused before anything is sent.
func TestInvalid(t *testing.T) {
	long := strings.Repeat("x", 129)
	for text, op := range map[string]ruleset.Op{
		"unknown set type":             ruleset.AddSet{Name: "s", Type: 99},
		"add elements to":              ruleset.AddElements{Set: "s", Type: 99, Elements: addrs("10.0.0.1")},
		"129 bytes":                    ruleset.AddSet{Name: "s", Comment: long},
		"add rule 1 of":                ruleset.SetRules{Chain: "pod-a", Rules: []ruleset.Rule{{Comment: long}}},
		"unknown match":                ruleset.SetRules{Chain: "pod-a", Rules: []ruleset.Rule{{Matches: []ruleset.Match{nil}}}},
		"unknown field":                ruleset.SetRules{Chain: "pod-a", Rules: []ruleset.Rule{matches(ruleset.Verdict{}, lookup("peers", 99))}},
		"no fields":                    ruleset.SetRules{Chain: "pod-a", Rules: []ruleset.Rule{matches(ruleset.Verdict{}, lookup("peers"))}},
		"unknown verdict":              ruleset.SetRules{Chain: "pod-a", Rules: []ruleset.Rule{{Verdict: ruleset.Verdict{Action: 99}}}},
		"to map pods":                  ruleset.AddVerdicts{Map: "pods", Entries: verdicts(ruleset.Verdict{Action: ruleset.Reject}, addrs("10.0.0.3")...)},
		"verdict 99 can't be in a map": ruleset.AddVerdicts{Map: "pods", Entries: verdicts(ruleset.Verdict{Action: 99}, addrs("10.0.0.3")...)},
		"map of ranges":                ruleset.AddSet{Name: "m", Type: ruleset.Range4, Map: true},
		"to map ranges":                ruleset.AddVerdicts{Map: "ranges", Type: ruleset.PortRange, Entries: verdicts(ruleset.Verdict{}, ports(6, 1, 2))},
		"unknown hook":                 ruleset.AddChain{Name: "c", Hook: &ruleset.Hook{Point: 99}},
		"unknown priority":             ruleset.AddChain{Name: "c", Hook: &ruleset.Hook{Base: 99}},
		"unknown type <nil>":           nil,
	} {
		t.Run(text, func(t *testing.T) {
			g := NewWithT(t)
			n := newNamespace(t)
			c := n.open()
			g.Expect(c.Apply(small())).To(Succeed())
			before := n.list()
			err := c.Apply(apply(ruleset.AddSet{Name: "fine"}, op))
			g.Expect(err).To(MatchError(ContainSubstring(text)))
			g.Expect(c.Apply(apply(ruleset.AddSet{Name: "fine"}, ruleset.DeleteSet{Name: "fine"}))).To(Succeed())
			g.Expect(n.list()).To(Equal(before))
		})
	}
}

// TestAttributeTooLong has the library refuse what it is to encode.
func TestAttributeTooLong(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	g.Expect(c.Apply(small())).To(Succeed())
	before := n.list()
	g.Expect(c.Apply(apply(ruleset.AddSet{Name: "fine"}, ruleset.AddSet{Name: strings.Repeat("x", 1<<16)}))).NotTo(Succeed())
	g.Expect(c.Apply(apply(ruleset.AddSet{Name: "fine"}, ruleset.DeleteSet{Name: "fine"}))).To(Succeed())
	g.Expect(n.list()).To(Equal(before))
}

func TestReplace(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	n.nft("table inet other { chain c { drop; }\n }\ntable ip podfence { }\n", "-f", "-")
	c := n.open()
	g.Expect(c.Apply(small())).To(Succeed())
	first := n.list()
	g.Expect(first).To(ContainSubstring("table inet other"))
	g.Expect(c.Apply(apply(ruleset.AddSet{Name: "stale", Type: ruleset.Addr4}))).To(Succeed())
	g.Expect(c.Apply(small())).To(Succeed())
	g.Expect(n.list()).To(Equal(first))

	// A replacement that fails leaves the table that was there.
	failing := small()
	failing.Ops = append(failing.Ops, ruleset.DeleteSet{Name: "none"})
	g.Expect(c.Apply(failing)).To(MatchError(unix.ENOENT))
	g.Expect(n.list()).To(Equal(first))

	// Replacing by nothing leaves an empty table.
	g.Expect(c.Apply(ruleset.Plan{Replace: true})).To(Succeed())
	g.Expect(n.nft("", "list", "table", "inet", "podfence")).To(Equal("table inet podfence {\n}\n"))
}

func TestChangeVerdict(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	g.Expect(c.Apply(small())).To(Succeed())
	before := n.list()
	change := func(v ruleset.Verdict) ruleset.Plan {
		return apply(
			ruleset.DeleteElements{Set: "pods", Type: ruleset.Addr4, Elements: addrs("10.0.0.2")},
			ruleset.AddVerdicts{Map: "pods", Type: ruleset.Addr4, Entries: verdicts(v, addrs("10.0.0.2")...)},
		)
	}
	g.Expect(c.Apply(change(jump("pod-a")))).To(Succeed())
	g.Expect(n.list()).To(MatchRegexp(`10\.0\.0\.2 : jump pod-a`))
	g.Expect(c.Apply(change(ruleset.Verdict{}))).To(Succeed())
	g.Expect(n.list()).To(Equal(before))
}

func TestDeleteChainWithItsEntry(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	g.Expect(c.Apply(small())).To(Succeed())
	g.Expect(c.Apply(apply(
		ruleset.DeleteElements{Set: "pods", Type: ruleset.Addr4, Elements: addrs("10.0.0.1")},
		ruleset.DeleteChain{Name: "pod-a"},
		ruleset.DeleteSet{Name: "peers"},
	))).To(Succeed())
	g.Expect(n.list()).NotTo(Or(ContainSubstring("pod-a"), ContainSubstring("peers")))
}

func TestSetRulesReplaces(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	g.Expect(c.Apply(small())).To(Succeed())
	before := n.list()
	g.Expect(c.Apply(apply(ruleset.SetRules{Chain: "pod-a"}))).To(Succeed())
	g.Expect(n.nft("", "list", "chain", "inet", "podfence", "pod-a")).NotTo(ContainSubstring("drop"))
	for _, op := range small().Ops {
		if op, ok := op.(ruleset.SetRules); ok {
			g.Expect(c.Apply(apply(op))).To(Succeed())
		}
	}
	g.Expect(n.list()).To(Equal(before))
}

func TestCloseAndUninstall(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	n.nft("table inet other { }\n", "-f", "-")
	c := n.open()
	g.Expect(c.Apply(small())).To(Succeed())
	before := n.list()
	g.Expect(c.Close()).To(Succeed())
	g.Expect(c.Close()).To(Succeed())
	g.Expect(c.Apply(small())).To(MatchError(kernel.ErrClosed))
	g.Expect(c.Uninstall()).To(MatchError(kernel.ErrClosed))
	g.Expect(n.list()).To(Equal(before))

	c = n.open()
	g.Expect(c.Uninstall()).To(Succeed())
	g.Expect(c.Uninstall()).To(Succeed())
	g.Expect(n.list()).To(Equal("table inet other {\n}\n"))
}

func TestTableName(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	var c *kernel.Conn
	var err error
	// Without a descriptor: the namespace of the thread.
	n.run(func() { c, err = kernel.Open(kernel.Options{Table: "mine"}) })
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { _ = c.Close() })
	g.Expect(c.Apply(small())).To(Succeed())
	g.Expect(n.list()).To(HavePrefix("table inet mine {"))
}

func TestConcurrent(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	g.Expect(c.Apply(small())).To(Succeed())
	before := n.list()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			set := ruleset.AddSet{Name: fmt.Sprint("set-", i), Type: ruleset.Addr4}
			for range 20 {
				if err := c.Apply(apply(set)); err != nil {
					t.Error(err)
				}
				if err := c.Apply(apply(ruleset.DeleteSet{Name: "none"})); !errors.Is(err, unix.ENOENT) {
					t.Error(err)
				}
				if err := c.Apply(apply(ruleset.DeleteSet{Name: set.Name})); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	g.Expect(n.list()).To(Equal(before))
}
