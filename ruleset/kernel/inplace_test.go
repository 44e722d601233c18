package kernel_test

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
)

var baseChain = regexp.MustCompile(`chain (\S+) \{ # handle (\d+)\n\t\ttype`)

// shifted is a plan whose table gets higher handles than usual. Handles begin at the same number for
// each new table, so that without this a table that is replaced whole would have the same ones.
func shifted(plan nft.Plan) nft.Plan {
	var shift []nft.Op
	for i := range 100 {
		shift = append(shift, nft.AddChain{Name: fmt.Sprint("shift-", i)})
	}
	plan.Ops = slices.Concat(shift, plan.Ops)
	return plan
}

// baseChains are the handles of the base chains, by name. What is added to a table
// gets the next.
func (n *namespace) baseChains() map[string]string {
	n.t.Helper()
	found := map[string]string{}
	for _, match := range baseChain.FindAllStringSubmatch(n.nft("", "-a", "list", "ruleset"), -1) {
		found[match[1]] = match[2]
	}
	return found
}

// sorted are the lines of a listing in order: base chains that stay are listed
// before those that come.
func (n *namespace) sorted() []string { return slices.Sorted(strings.Lines(unflagged(n.list()))) }

// TestReplaceInPlace replaces each golden's table by each other of its family, which
// keeps its base chains, if none of them goes, and has nothing left of what was there
// before.
func TestReplaceInPlace(t *testing.T) {
	paths, err := filepath.Glob("../testdata/*.nft")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no goldens in ../testdata: %v", err)
	}
	for _, path := range paths {
		after := tableOf(t, strings.TrimSuffix(path, ".nft"))
		for _, from := range paths {
			before := tableOf(t, strings.TrimSuffix(from, ".nft"))
			if before.Family != after.Family {
				continue
			}
			t.Run(filepath.Base(from)+" to "+filepath.Base(path), func(t *testing.T) {
				g := NewWithT(t)
				have, want := newNamespace(t), newNamespace(t)
				c := have.open()
				g.Expect(c.Apply(shifted(before.Replacement()))).To(Succeed())
				handles := have.baseChains()
				g.Expect(handles).NotTo(BeEmpty())
				g.Expect(c.Apply(after.Replacement())).To(Succeed())
				now := have.baseChains()
				goes := slices.ContainsFunc(slices.Collect(maps.Keys(handles)), func(name string) bool { return now[name] == "" })
				for name, handle := range now {
					if was, is := handles[name]; is && !goes && !kernel.Opens(after.Replacement()) {
						g.Expect(handle).To(Equal(was), "%s stays registered", name)
					}
				}
				want.load(after.Text())
				if !goes && len(handles) == len(now) && !kernel.Opens(after.Replacement()) { // in the same order
					expectSame(t, have, want)
				}
				g.Expect(have.sorted()).To(Equal(want.sorted()))
			})
		}
	}
}

// TestReplaceOrphanInPlace lets the owner of both tables end, and the next owner take over what the
// first has left.
func TestReplaceOrphanInPlace(t *testing.T) {
	for _, golden := range []string{"web", "guard"} {
		t.Run(golden, func(t *testing.T) {
			g := NewWithT(t)
			have, want := newNamespace(t), newNamespace(t)
			first := have.own()
			table := tableOf(t, "../testdata/"+golden)
			g.Expect(first.Apply(shifted(table.Replacement()))).To(Succeed())
			handles := have.baseChains()
			for range 2 { // by its owner, then by the next
				g.Expect(first.Apply(table.Replacement())).To(Succeed())
				g.Expect(have.baseChains()).To(Equal(handles))
				g.Expect(first.Close()).To(Succeed())
				first = have.own()
			}
			g.Expect(first.Apply(table.Replacement())).To(Succeed())
			g.Expect(have.baseChains()).To(Equal(handles))
			_, err := have.try("", "delete table "+table.Family.String()+" podfence")
			g.Expect(err).To(MatchError(ContainSubstring("Operation not permitted")), "it is owned again")
			want.load(table.Text())
			g.Expect(have.sorted()).To(Equal(want.sorted()))
		})
	}
}

// TestReplaceStrange replaces a table that others have changed. Base chains stay
// where it was changed in what a replacement in place can undo.
func TestReplaceStrange(t *testing.T) {
	const base = "table inet podfence { chain base { type filter hook forward priority %; policy accept; }; }"
	for change, stays := range map[string]bool{
		"":                          true,
		"flush table inet podfence": true,
		"add chain inet podfence mine; add rule inet podfence mine jump pod":                           true,
		"add chain inet podfence mine { type filter hook input priority 0; }":                          false,
		"add map inet podfence mine { type ipv4_addr : verdict; elements = { 1.2.3.4 : goto pod }; }":  true,
		"add table inet other; add chain inet other base { type filter hook forward priority 9; }":     true,
		"chain inet podfence base { policy drop; }":                                                    false,
		"add rule inet podfence base ip saddr { 10.0.0.1, 10.0.0.2 } accept":                           false,
		"add counter inet podfence mine":                                                               false,
		"add table inet podfence { flags dormant; }":                                                   false,
		"flush ruleset; " + strings.ReplaceAll(base, "%", "1"):                                         false,
		"flush ruleset; " + strings.ReplaceAll(strings.ReplaceAll(base, "%", "0"), "forward", "input"): false,
		"flush ruleset; table inet podfence { chain base { }; }":                                       false,
	} {
		t.Run(change, func(t *testing.T) {
			g := NewWithT(t)
			have, want := newNamespace(t), newNamespace(t)
			c := have.open()
			g.Expect(c.Apply(shifted(fenced()))).To(Succeed())
			have.nft(change+"\n", "-f", "-")
			before := have.baseChains()["base"]
			g.Expect(c.Apply(fenced())).To(Succeed())
			g.Expect(have.baseChains()["base"] == before).To(Equal(stays))
			g.Expect(want.open().Apply(fenced())).To(Succeed())
			if strings.Contains(change, "other") {
				have.nft("", "delete table inet other")
			}
			g.Expect(have.sorted()).To(Equal(want.sorted()))
		})
	}
}

// TestReplacePriority moves a base chain: another is registered then.
func TestReplacePriority(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	plan := fenced()
	plan.Ops = append(plan.Ops, nft.AddChain{Name: "input", Hook: &nft.Hook{Point: nft.Input}})
	g.Expect(c.Apply(shifted(plan))).To(Succeed())
	plan.Ops[len(plan.Ops)-1] = nft.AddChain{Name: "input", Hook: &nft.Hook{Point: nft.Input, Priority: 1}}
	g.Expect(c.Apply(plan)).To(Succeed())
	g.Expect(n.baseChains()).To(HaveLen(2))
	g.Expect(n.list()).To(ContainSubstring("hook input priority filter + 1"))
}

// TestReplaceRefused has the plan itself be at fault: the error names its operation,
// and the table stays.
func TestReplaceRefused(t *testing.T) {
	g := NewWithT(t)
	n := newNamespace(t)
	c := n.open()
	g.Expect(c.Apply(fenced())).To(Succeed())
	before := n.list()
	bad := fenced()
	bad.Ops = append(bad.Ops, nft.DeleteSet{Name: "none"})
	err := c.Apply(bad)
	var refusal *nft.Refusal
	g.Expect(err).To(BeAssignableToTypeOf(refusal))
	refusal = err.(*nft.Refusal)
	g.Expect(refusal.Op).To(Equal(len(bad.Ops) - 1))
	var failed *kernel.OpError
	g.Expect(refusal.Err).To(BeAssignableToTypeOf(failed))
	g.Expect(err).To(MatchError(ContainSubstring("delete set none")))
	g.Expect(n.list()).To(Equal(before))
}
