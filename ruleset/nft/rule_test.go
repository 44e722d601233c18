package nft_test

import (
	"reflect"
	"testing"

	"github.com/podfence/podfence/ruleset/nft"
)

// place is an origin that is no sentence.
type place struct{ chain string }

func (p place) Comment() string { return p.chain }

// TestSameRules: two rules are the same where reflection says so, whatever in them differs.
func TestSameRules(t *testing.T) {
	rules := func() []nft.Rule {
		all := []nft.Rule{
			{}, {Counter: true}, {Verdict: nft.Verdict{Action: nft.Drop}}, {Verdict: nft.Verdict{Action: nft.Jump, Chain: "a"}},
			{Verdict: nft.Verdict{Action: nft.Dispatch, Map: "m", Field: nft.SrcAddr6}},
			{Origin: nft.Sentence("a")}, {Origin: nft.Sentence("b")}, {Origin: place{"a"}},
			{Matches: []nft.Match{nft.New, nft.Established}},
			{Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{nft.SrcAddr6}, Set: "addrs"}}},
			{Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{nft.SrcAddr4, nft.SrcAddr4}, Set: "addrs"}}},
			{Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{nft.SrcAddr4}, Set: "others"}}},
		}
		for _, m := range nft.Examples() {
			all = append(all, nft.Rule{Matches: []nft.Match{m}})
		}
		return all
	}
	for i, a := range rules() {
		for j, b := range rules() {
			one, other := []nft.Rule{a}, []nft.Rule{b}
			if have := nft.SameRules(one, other); have != (i == j) || have != reflect.DeepEqual(one, other) {
				t.Errorf("%s and %s are the same: %t", a, b, have)
			}
		}
	}
	if nft.SameRules(rules(), rules()[1:]) {
		t.Error("fewer rules are the same")
	}
}
