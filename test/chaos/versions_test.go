package chaos

import (
	"net/netip"
	"testing"

	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/steady"
)

// TestVersions puts a table in the agent's place that is laid out in another way, as
// an older or a newer podfence might, and the agent's in the place of that one.
func TestVersions(t *testing.T) {
	tr := newTrial(t)
	tr.begin()
	n := times(20)
	for i := range n {
		if i%2 == 0 {
			tr.stop()
		} else {
			tr.kill()
		}
		// The kernel lets go of what the process had soon after it has ended.
		other, err := kernel.Open(kernel.Options{NetNS: tr.lab.Node.NetNS(), Own: true})
		check.NoError(t, err)
		check.Eventually(t, soon, "the other version's first commit", func() error { return other.Apply(otherLayout()) })
		check.NoError(t, tr.nft("list chain inet podfence egress-pods-4")) // it is in force
		tr.advance(20)
		check.NoError(t, other.Close())
		tr.change(3)
		tr.launch()
		tr.awaitReady()
		tr.advance(20)
	}
	tr.settled()
	tr.end("another version's table, laid out differently, replaces the agent's, and the agent's that", 2*n)
}

// otherLayout denies of steady traffic what policies deny, in another way: from the
// hook prerouting and before other priorities, in chains that are called as the
// agent's maps and maps that are called as its chains, with sets of the agent's names
// that have other types and flags, and base chains of its names at other hooks.
func otherLayout() ruleset.Plan {
	drop := ruleset.Verdict{Action: ruleset.Drop}
	jump := func(chain string) ruleset.Rule {
		return ruleset.Rule{Verdict: ruleset.Verdict{Action: ruleset.Jump, Chain: chain}}
	}
	var addrs4, prefixes6 []ruleset.Element
	add := func(addr netip.Addr) {
		if addr.Is4() {
			addrs4 = append(addrs4, ruleset.AddrElement(addr))
		} else {
			prefixes6 = append(prefixes6, ruleset.PrefixElement(netip.PrefixFrom(addr, addr.BitLen())))
		}
	}
	for _, addr := range steady.Addrs(steady.Shut) {
		add(addr)
	}
	var entries []ruleset.VerdictEntry
	var muted6 []ruleset.Element
	for _, addr := range steady.Addrs(steady.Mute) {
		if addr.Is4() {
			entries = append(entries, ruleset.VerdictEntry{Key: ruleset.AddrElement(addr), Verdict: drop})
		} else {
			muted6 = append(muted6, ruleset.AddrElement(addr))
		}
	}
	return ruleset.Plan{Replace: true, Ops: []ruleset.Op{
		// The agent's pod-ranges-4 is a set of intervals, its pod-ranges-6 too.
		ruleset.AddSet{Name: "pod-ranges-4", Type: ruleset.Addr4},
		ruleset.AddElements{Set: "pod-ranges-4", Type: ruleset.Addr4, Elements: addrs4},
		ruleset.AddSet{Name: "neighbour-discovery", Type: ruleset.Range6},
		ruleset.AddElements{Set: "neighbour-discovery", Type: ruleset.Range6, Elements: prefixes6},
		ruleset.AddSet{Name: "pod-ranges-6", Type: ruleset.Addr4, Map: true},
		ruleset.AddVerdicts{Map: "pod-ranges-6", Type: ruleset.Addr4, Entries: entries},
		ruleset.AddSet{Name: "ingress-pods-6", Type: ruleset.Addr6},
		ruleset.AddElements{Set: "ingress-pods-6", Type: ruleset.Addr6, Elements: muted6},
		ruleset.AddSet{Name: "egress-pods-6", Type: ruleset.PortRange},
		// The agent's egress-pods-4 is a map, its egress-forward at the hook forward.
		ruleset.AddChain{Name: "egress-pods-4"},
		ruleset.SetRules{Chain: "egress-pods-4", Rules: []ruleset.Rule{
			{Matches: []ruleset.Match{ruleset.Lookup{Fields: []ruleset.Field{ruleset.DstAddr4}, Set: "pod-ranges-4"}}, Counter: true, Verdict: drop},
			{Matches: []ruleset.Match{ruleset.Lookup{Fields: []ruleset.Field{ruleset.DstAddr6}, Set: "neighbour-discovery"}}, Verdict: drop},
			{Matches: []ruleset.Match{ruleset.Lookup{Fields: []ruleset.Field{ruleset.SrcAddr6}, Set: "ingress-pods-6"}}, Verdict: drop},
			{Verdict: ruleset.Verdict{Action: ruleset.Dispatch, Field: ruleset.SrcAddr4, Map: "pod-ranges-6"}},
		}},
		ruleset.AddChain{Name: "egress-forward", Hook: &ruleset.Hook{Point: ruleset.Prerouting, Priority: 40}},
		ruleset.SetRules{Chain: "egress-forward", Rules: []ruleset.Rule{
			{Matches: []ruleset.Match{ruleset.Established | ruleset.Related}, Verdict: ruleset.Verdict{Action: ruleset.Accept}},
			jump("egress-pods-4"),
		}},
		ruleset.AddChain{Name: "ingress-forward", Hook: &ruleset.Hook{Point: ruleset.Postrouting, Priority: -200}},
		ruleset.AddChain{Name: "egress-input"},
	}}
}

// TestOtherLayoutIsDifferent: it must share names with the agent's table, and none of
// what it shares may be the same.
func TestOtherLayoutIsDifferent(t *testing.T) {
	tr := newTrial(t)
	tr.launch()
	tr.awaitReady()
	tr.settled()
	ours, err := tr.tableOf(tr.lab.Node)
	check.NoError(t, err)
	tr.kill()
	check.NoError(t, tr.lab.ResetRuleset())
	conn, err := kernel.Open(kernel.Options{NetNS: tr.lab.Node.NetNS()})
	check.NoError(t, err)
	defer conn.Close()
	check.NoError(t, conn.Apply(otherLayout()))
	theirs, err := tr.tableOf(tr.lab.Node)
	check.NoError(t, err)
	for _, one := range block.FindAllString(theirs, -1) {
		for _, other := range block.FindAllString(ours, -1) {
			if one == other {
				t.Errorf("both have\n%s", one)
			}
		}
	}
}
