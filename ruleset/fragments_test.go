package ruleset_test

import (
	"testing"

	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// TestFragmentLimits: what one port's fragments take of the node's memory at most, as long
// as they wait, is half of it, and not much less. A fragment of 1,500 octets takes 2,304,
// and one of 64 kB hardly more than its octets.
func TestFragmentLimits(t *testing.T) {
	const taken = 2304
	usual := ruleset.FragmentMemory{V4: ruleset.Waiting{Octets: 4 << 20, Seconds: 30}, V6: ruleset.Waiting{Octets: 4 << 20, Seconds: 60}}
	for _, c := range []struct{ set, have ruleset.FragmentMemory }{
		{ruleset.FragmentMemory{}, usual}, {usual, usual},
		{ruleset.FragmentMemory{V4: ruleset.Waiting{Octets: 128 << 20, Seconds: 3}}, ruleset.FragmentMemory{V4: ruleset.Waiting{Octets: 128 << 20, Seconds: 3}, V6: usual.V6}},
		{ruleset.FragmentMemory{V6: ruleset.Waiting{Octets: 16 << 30}}, ruleset.FragmentMemory{V4: usual.V4, V6: ruleset.Waiting{Octets: 16 << 30, Seconds: 60}}},
	} {
		table := ruleset.BuildGuard(nil, ruleset.Gateway{}, c.set)
		for chain, w := range map[string]ruleset.Waiting{"fragments-4": c.have.V4, "fragments-6": c.have.V6} {
			var limits []nft.Limit
			for _, rule := range table.Chains[chain].Rules {
				for _, m := range rule.Matches {
					if l, is := m.(nft.Limit); is {
						limits = append(limits, l)
					}
				}
			}
			if len(limits) != 2 || limits[0].Octets || !limits[1].Octets {
				t.Fatalf("%s: %+v", chain, limits)
			}
			fragments := uint64(limits[0].PerSecond)*uint64(w.Seconds) + uint64(limits[0].Burst)
			octets := uint64(limits[1].PerSecond)*uint64(w.Seconds) + uint64(limits[1].Burst)
			if fragments*taken > w.Octets/2 || octets > w.Octets/2 {
				t.Errorf("%s of %+v: %d fragments wait, of %d octets", chain, w, fragments, octets)
			}
			if small := uint64(1) << 30; w.Octets < small && fragments*taken < w.Octets/3 {
				t.Errorf("%s of %+v: only %d fragments wait", chain, w, fragments)
			}
		}
	}
}
