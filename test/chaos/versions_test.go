package chaos

import (
	"net/netip"
	"testing"

	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
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
func otherLayout() nft.Plan {
	drop := nft.Verdict{Action: nft.Drop}
	jump := func(chain string) nft.Rule {
		return nft.Rule{Verdict: nft.Verdict{Action: nft.Jump, Chain: chain}}
	}
	var addrs4, prefixes6 []nft.Element
	add := func(addr netip.Addr) {
		if addr.Is4() {
			addrs4 = append(addrs4, nft.AddrElement(addr))
		} else {
			prefixes6 = append(prefixes6, nft.PrefixElement(netip.PrefixFrom(addr, addr.BitLen())))
		}
	}
	for _, addr := range steady.Addrs(steady.Shut) {
		add(addr)
	}
	var entries []nft.VerdictEntry
	var muted6 []nft.Element
	for _, addr := range steady.Addrs(steady.Mute) {
		if addr.Is4() {
			entries = append(entries, nft.VerdictEntry{Key: nft.AddrElement(addr), Verdict: drop})
		} else {
			muted6 = append(muted6, nft.AddrElement(addr))
		}
	}
	return nft.Plan{Replace: true, Ops: []nft.Op{
		// The agent's pod-ranges-4 is a set of intervals, its pod-ranges-6 too.
		nft.AddSet{Name: "pod-ranges-4", Type: nft.Of(nft.IPv4Addr)},
		nft.AddElements{Set: "pod-ranges-4", Type: nft.Of(nft.IPv4Addr), Elements: addrs4},
		nft.AddSet{Name: "neighbour-discovery", Type: nft.RangesOf(nft.IPv6Addr)},
		nft.AddElements{Set: "neighbour-discovery", Type: nft.RangesOf(nft.IPv6Addr), Elements: prefixes6},
		nft.AddSet{Name: "pod-ranges-6", Type: nft.Of(nft.IPv4Addr), Map: true},
		nft.AddVerdicts{Map: "pod-ranges-6", Type: nft.Of(nft.IPv4Addr), Entries: entries},
		nft.AddSet{Name: "ingress-pods-6", Type: nft.Of(nft.IPv6Addr)},
		nft.AddElements{Set: "ingress-pods-6", Type: nft.Of(nft.IPv6Addr), Elements: muted6},
		nft.AddSet{Name: "egress-pods-6", Type: nft.RangesOf(nft.InetProto, nft.InetService)},
		// The agent's egress-pods-4 is a map, its egress-forward at the hook forward.
		nft.AddChain{Name: "egress-pods-4"},
		nft.SetRules{Chain: "egress-pods-4", Rules: []nft.Rule{
			{Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{nft.DstAddr4}, Set: "pod-ranges-4"}}, Counter: true, Verdict: drop},
			{Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{nft.DstAddr6}, Set: "neighbour-discovery"}}, Verdict: drop},
			{Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{nft.SrcAddr6}, Set: "ingress-pods-6"}}, Verdict: drop},
			{Verdict: nft.Verdict{Action: nft.Dispatch, Field: nft.SrcAddr4, Map: "pod-ranges-6"}},
		}},
		nft.AddChain{Name: "egress-forward", Hook: &nft.Hook{Point: nft.Prerouting, Priority: 40}},
		nft.SetRules{Chain: "egress-forward", Rules: []nft.Rule{
			{Matches: []nft.Match{nft.Established | nft.Related}, Verdict: nft.Verdict{Action: nft.Accept}},
			jump("egress-pods-4"),
		}},
		nft.AddChain{Name: "ingress-forward", Hook: &nft.Hook{Point: nft.Postrouting, Priority: -200}},
		nft.AddChain{Name: "egress-input"},
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
