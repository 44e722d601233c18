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
	"github.com/podfence/podfence/ruleset/nft"
)

// addr4 is the type of sets of IPv4 addresses.
var addr4 = nft.Of(nft.IPv4Addr)

// verdicts are entries that send every key the same way.
func verdicts(v nft.Verdict, keys ...nft.Element) []nft.VerdictEntry {
	entries := make([]nft.VerdictEntry, len(keys))
	for i, key := range keys {
		entries[i] = nft.VerdictEntry{Key: key, Verdict: v}
	}
	return entries
}

// small is a table with two pods, one of them isolated.
func small() nft.Plan {
	return nft.Plan{Replace: true, Ops: []nft.Op{
		nft.AddSet{Name: "peers", Type: addr4},
		nft.AddElements{Set: "peers", Type: addr4, Elements: addrs("10.0.0.9")},
		nft.AddSet{Name: "pods", Type: addr4, Map: true},
		nft.AddChain{Name: "base", Hook: &nft.Hook{Point: nft.Forward, Priority: -10}},
		nft.AddChain{Name: "pod-a"},
		nft.SetRules{Chain: "pod-a", Rules: []nft.Rule{
			matches(nft.Verdict{}, lookup("peers", nft.DstAddr4)),
			{Counter: true, Verdict: nft.Verdict{Action: nft.Drop}},
		}},
		nft.AddVerdicts{Map: "pods", Type: addr4, Entries: []nft.VerdictEntry{
			{Key: addrs("10.0.0.1")[0], Verdict: jump("pod-a")}, {Key: addrs("10.0.0.2")[0]},
		}},
		nft.SetRules{Chain: "base", Rules: []nft.Rule{
			matches(nft.Verdict{Action: nft.Dispatch, Map: "pods", Field: nft.SrcAddr4}),
		}},
	}}
}

func apply(ops ...nft.Op) nft.Plan { return nft.Plan{Ops: ops} }

func TestEmptyPlan(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	g.Expect(n.open().Apply(nft.Plan{})).To(Succeed())
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
	op    nft.Op
	errno error
	text  string
}

func failures() map[string]fails {
	prefix := func(texts ...string) nft.AddElements {
		return nft.AddElements{Set: "block", Type: nft.RangesOf(nft.IPv4Addr), Elements: prefixes(texts...)}
	}
	return map[string]fails{
		"no such set": {
			nft.AddElements{Set: "none", Type: addr4, Elements: addrs("10.0.0.1")},
			unix.ENOENT, "add element 10.0.0.1 to set none",
		},
		"no such element": {
			nft.DeleteElements{Set: "peers", Type: addr4, Elements: addrs("10.0.0.9", "10.0.0.10")},
			unix.ENOENT, "delete elements 10.0.0.9 to 10.0.0.10 (1 to 2 of 2) from set peers",
		},
		"overlap":        {prefix("10.0.0.0/8", "10.1.0.0/16"), unix.EEXIST, "add elements 10.0.0.0/8 to 10.1.0.0/16"},
		"other verdict":  {nft.AddVerdicts{Map: "pods", Type: addr4, Entries: verdicts(jump("pod-a"), addrs("10.0.0.2")...)}, unix.EEXIST, "add element 10.0.0.2 to map pods"},
		"no such target": {nft.AddVerdicts{Map: "pods", Type: addr4, Entries: verdicts(jump("none"), addrs("10.0.0.3")...)}, unix.ENOENT, "add element 10.0.0.3 to map pods"},
		"other type":     {nft.AddSet{Name: "peers", Type: nft.Of(nft.IPv6Addr)}, unix.EEXIST, "add set peers"},
		"set in use":     {nft.DeleteSet{Name: "peers"}, unix.EBUSY, "delete set peers"},
		"chain in use":   {nft.DeleteChain{Name: "pod-a"}, unix.EBUSY, "delete chain pod-a"},
		"no such chain":  {nft.SetRules{Chain: "none"}, unix.ENOENT, "flush chain none"},
		"rule's set": {
			nft.SetRules{Chain: "pod-a", Rules: []nft.Rule{{}, matches(nft.Verdict{}, lookup("none", nft.SrcAddr4))}},
			unix.ENOENT, "add rule 2 of chain pod-a",
		},
		"loop": {
			nft.SetRules{Chain: "pod-a", Rules: []nft.Rule{matches(jump("pod-a"))}},
			unix.EMLINK, "add rule 1 of chain pod-a",
		},
	}
}

// TestFailure has an operation fail in the middle of each of these plans: the
// table must be as before, the error name the operation, the connection go on; and
// a check must say the same.
func TestFailure(t *testing.T) {
	fine := nft.AddSet{Name: "fine", Type: addr4}
	for name, test := range failures() {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			n := newNamespace(t)
			c := n.open()
			w := n.watch(c, false)
			g.Expect(c.Apply(small())).To(Succeed())
			g.Expect(c.Apply(apply(nft.AddSet{Name: "block", Type: nft.RangesOf(nft.IPv4Addr)}))).To(Succeed())
			before := n.list()

			plan := apply(fine, test.op, nft.DeleteSet{Name: "fine"})
			for name, do := range map[string]func(nft.Plan) error{"apply": c.Apply, "check": c.Check} {
				err := do(plan)
				g.Expect(errors.Is(err, test.errno)).To(BeTrue(), "%s: %v", name, err)
				var failed *kernel.OpError
				g.Expect(errors.As(err, &failed)).To(BeTrue())
				g.Expect(failed.Op).To(ContainSubstring(test.text))
				var refusal *nft.Refusal
				if passing := test.errno == unix.EBUSY; passing {
					g.Expect(errors.As(err, &refusal)).To(BeFalse(), "%s: it may be in use for the moment only", name)
				} else {
					g.Expect(errors.As(err, &refusal)).To(BeTrue(), "%s", name)
					g.Expect(refusal.Op).To(Equal(1))
				}
				g.Expect(n.list()).To(Equal(before))
			}

			// Nothing lingers: neither the failed batch's messages nor answers.
			g.Expect(c.Apply(apply(nft.AddSet{Name: "after", Type: addr4}))).To(Succeed())
			g.Expect(n.list()).NotTo(ContainSubstring("fine"))
			g.Expect(c.Apply(apply(nft.DeleteSet{Name: "after"}))).To(Succeed())
			g.Expect(n.list()).To(Equal(before))
			g.Expect(w.Take()).To(BeEmpty())
		})
	}
}

// TestCheck has plans checked that the kernel takes: nobody must notice.
func TestCheck(t *testing.T) {
	for name, plan := range map[string]nft.Plan{
		"nothing":        {},
		"an update":      apply(nft.AddChain{Name: "more"}, nft.DeleteElements{Set: "pods", Type: addr4, Elements: addrs("10.0.0.1")}, nft.DeleteChain{Name: "pod-a"}),
		"a replacement":  fenced(),
		"an empty table": {Replace: true},
		"another one's":  {Family: nft.Bridge, Replace: true, Ops: []nft.Op{nft.AddChain{Name: "c"}}},
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
	var refusal *nft.Refusal
	g.Expect(errors.As(c.Check(plan), &refusal)).To(BeTrue())
	g.Expect(refusal).To(MatchError(unix.EEXIST))
	g.Expect(ruleset.Users(in, plan.Ops[refusal.Op], ruleset.Options{})).To(Equal([]policy.Key{bad}))
	g.Expect(c.Apply(ruleset.Build(in.Quarantine(map[policy.Key]struct{}{bad: {}}), ruleset.Options{}).Replacement())).To(Succeed())
}

// TestInvalid has plans that are refused before anything is sent.
func TestInvalid(t *testing.T) {
	long := strings.Repeat("x", 129)
	for text, op := range map[string]nft.Op{
		"unknown set type":             nft.AddSet{Name: "s"},
		"add elements to":              nft.AddElements{Set: "s", Elements: addrs("10.0.0.1")},
		"129 bytes":                    nft.AddSet{Name: "s", Type: addr4, Comment: long},
		"add rule 1 of":                nft.SetRules{Chain: "pod-a", Rules: []nft.Rule{{Origin: nft.Sentence(long)}}},
		"unknown match":                nft.SetRules{Chain: "pod-a", Rules: []nft.Rule{{Matches: []nft.Match{nil}}}},
		"unknown field":                nft.SetRules{Chain: "pod-a", Rules: []nft.Rule{matches(nft.Verdict{}, lookup("peers", 99))}},
		"no fields":                    nft.SetRules{Chain: "pod-a", Rules: []nft.Rule{matches(nft.Verdict{}, lookup("peers"))}},
		"unknown verdict":              nft.SetRules{Chain: "pod-a", Rules: []nft.Rule{{Verdict: nft.Verdict{Action: 99}}}},
		"to map pods":                  nft.AddVerdicts{Map: "pods", Type: addr4, Entries: verdicts(nft.Verdict{Action: nft.Reject}, addrs("10.0.0.3")...)},
		"verdict 99 can't be in a map": nft.AddVerdicts{Map: "pods", Type: addr4, Entries: verdicts(nft.Verdict{Action: 99}, addrs("10.0.0.3")...)},
		"map of ranges":                nft.AddSet{Name: "m", Type: nft.RangesOf(nft.IPv4Addr), Map: true},
		"to map ranges":                nft.AddVerdicts{Map: "ranges", Type: nft.RangesOf(nft.InetProto, nft.InetService), Entries: verdicts(nft.Verdict{}, ports(6, 1, 2))},
		"unknown hook":                 nft.AddChain{Name: "c", Hook: &nft.Hook{Point: 99}},
		"unknown priority":             nft.AddChain{Name: "c", Hook: &nft.Hook{Base: 99}},
		"unknown type <nil>":           nil,
	} {
		t.Run(text, func(t *testing.T) {
			g := NewWithT(t)
			n := newNamespace(t)
			c := n.open()
			g.Expect(c.Apply(small())).To(Succeed())
			before := n.list()
			err := c.Apply(apply(nft.AddSet{Name: "fine", Type: addr4}, op))
			g.Expect(err).To(MatchError(ContainSubstring(text)))
			g.Expect(c.Apply(apply(nft.AddSet{Name: "fine", Type: addr4}, nft.DeleteSet{Name: "fine"}))).To(Succeed())
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
	g.Expect(c.Apply(apply(nft.AddSet{Name: "fine", Type: addr4}, nft.AddSet{Name: strings.Repeat("x", 1<<16), Type: addr4}))).NotTo(Succeed())
	g.Expect(c.Apply(apply(nft.AddSet{Name: "fine", Type: addr4}, nft.DeleteSet{Name: "fine"}))).To(Succeed())
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
	g.Expect(c.Apply(apply(nft.AddSet{Name: "stale", Type: addr4}))).To(Succeed())
	g.Expect(c.Apply(small())).To(Succeed())
	g.Expect(n.list()).To(Equal(first))

	// A replacement that fails leaves the table that was there.
	failing := small()
	failing.Ops = append(failing.Ops, nft.DeleteSet{Name: "none"})
	g.Expect(c.Apply(failing)).To(MatchError(unix.ENOENT))
	g.Expect(n.list()).To(Equal(first))

	// Replacing by nothing leaves an empty table.
	g.Expect(c.Apply(nft.Plan{Replace: true})).To(Succeed())
	g.Expect(n.nft("", "list", "table", "inet", "podfence")).To(Equal("table inet podfence {\n}\n"))
}

func TestChangeVerdict(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	g.Expect(c.Apply(small())).To(Succeed())
	before := n.list()
	change := func(v nft.Verdict) nft.Plan {
		return apply(
			nft.DeleteElements{Set: "pods", Type: addr4, Elements: addrs("10.0.0.2")},
			nft.AddVerdicts{Map: "pods", Type: addr4, Entries: verdicts(v, addrs("10.0.0.2")...)},
		)
	}
	g.Expect(c.Apply(change(jump("pod-a")))).To(Succeed())
	g.Expect(n.list()).To(MatchRegexp(`10\.0\.0\.2 : jump pod-a`))
	g.Expect(c.Apply(change(nft.Verdict{}))).To(Succeed())
	g.Expect(n.list()).To(Equal(before))
}

func TestDeleteChainWithItsEntry(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	g.Expect(c.Apply(small())).To(Succeed())
	g.Expect(c.Apply(apply(
		nft.DeleteElements{Set: "pods", Type: addr4, Elements: addrs("10.0.0.1")},
		nft.DeleteChain{Name: "pod-a"},
		nft.DeleteSet{Name: "peers"},
	))).To(Succeed())
	g.Expect(n.list()).NotTo(Or(ContainSubstring("pod-a"), ContainSubstring("peers")))
}

func TestSetRulesReplaces(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	g.Expect(c.Apply(small())).To(Succeed())
	before := n.list()
	g.Expect(c.Apply(apply(nft.SetRules{Chain: "pod-a"}))).To(Succeed())
	g.Expect(n.nft("", "list", "chain", "inet", "podfence", "pod-a")).NotTo(ContainSubstring("drop"))
	for _, op := range small().Ops {
		if op, ok := op.(nft.SetRules); ok {
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
			set := nft.AddSet{Name: fmt.Sprint("set-", i), Type: addr4}
			for range 20 {
				if err := c.Apply(apply(set)); err != nil {
					t.Error(err)
				}
				if err := c.Apply(apply(nft.DeleteSet{Name: "none"})); !errors.Is(err, unix.ENOENT) {
					t.Error(err)
				}
				if err := c.Apply(apply(nft.DeleteSet{Name: set.Name})); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	g.Expect(n.list()).To(Equal(before))
}
