package ruleset_test

import (
	"testing"

	"github.com/podfence/podfence/ruleset/nft"
)

// TestFieldsFitSets: what rules look up has the type of the set that they look it up in.
func TestFieldsFitSets(t *testing.T) {
	looked := 0
	for path, table := range goldens(t) {
		expect := func(chain string, set string, fields ...nft.Field) {
			looked++
			var parts []nft.Datatype
			for _, f := range fields {
				parts = append(parts, f.Datatype())
			}
			is := table.Sets[set].Type
			if want := nft.Of(parts...); is != want && is != nft.RangesOf(parts...) {
				t.Errorf("%s: chain %s looks %s up in %s, of type %s", path, chain, want, set, is)
			}
		}
		for name, chain := range table.Chains {
			for _, rule := range chain.Rules {
				for _, m := range rule.Matches {
					switch m := m.(type) {
					case nft.Lookup:
						expect(name, m.Set, m.Fields...)
					case nft.Limit:
						expect(name, m.Set, m.Field)
					case nft.Connections:
						expect(name, m.Set, m.Field)
					case nft.Noted:
						expect(name, m.Set, m.Fields...)
					}
				}
				if v := rule.Verdict; v.Action == nft.Dispatch {
					expect(name, v.Map, v.Field)
				}
			}
		}
	}
	if looked < 100 {
		t.Errorf("only %d fields are seen", looked)
	}
}
