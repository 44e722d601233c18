package nft_test

import (
	"maps"
	"testing"

	"github.com/podfence/podfence/ruleset/nft"
)

// TestBaseChainsRunByPriority: base chains run by priority, as in the kernel, not by their names or in
// the order in which they were added. Chains of type nat are left out.
func TestBaseChainsRunByPriority(t *testing.T) {
	base := func(name string, hook nft.Hook, action nft.Action) *nft.Chain {
		return &nft.Chain{Name: name, Hook: &hook, Rules: []nft.Rule{{Verdict: nft.Verdict{Action: action}}}}
	}
	table := nft.NewTable(nft.Bridge)
	table.AddChains(
		base("a", nft.Hook{Point: nft.Prerouting, Priority: 5}, nft.Accept),                       // -195
		base("d", nft.Hook{Point: nft.Prerouting, Base: nft.SrcNAT, Priority: -20}, nft.Reject),   // 280: denies
		base("c", nft.Hook{Point: nft.Prerouting, Base: nft.DstNAT}, nft.Accept),                  // -300
		base("b", nft.Hook{Point: nft.Prerouting, Priority: -10}, nft.Accept),                     // -210
		base("e", nft.Hook{Point: nft.Prerouting, Base: nft.SrcNAT}, nft.Drop),                    // 300: after that
		base("n", nft.Hook{Point: nft.Prerouting, Base: nft.DstNAT, NAT: true, Priority: -50}, 0), // of type nat
		base("f", nft.Hook{Point: nft.Forward, Priority: -100}, nft.Drop),
		&nft.Chain{Name: "other", Rules: []nft.Rule{{Verdict: nft.Verdict{Action: nft.Drop}}}},
	)
	// A table is a value: one that is put together by hand is traced as well.
	plain := nft.Table{Family: table.Family, Sets: table.Sets, Chains: maps.Clone(table.Chains)}
	for name, table := range map[string]*nft.Table{"made": &table, "plain": &plain} {
		trace, order := table.Trace(nft.Prerouting, nft.TracePacket{}), ""
		for _, step := range trace.Steps {
			order += step.Chain
		}
		if order != "cbad" || trace.Verdict != nft.Reject {
			t.Errorf("%s: by chains %s: %s", name, order, trace)
		}
	}
}
