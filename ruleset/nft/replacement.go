package nft

import (
	"maps"
	"slices"
)

// timedElements are the elements of a timed set, in order.
func (s *Set) timedElements() (all []TimedElement) {
	for _, e := range SortedElements(s.Timed) {
		all = append(all, TimedElement{e, s.Timed[e]})
	}
	return all
}

// AddTimed puts the elements of a timed set into the kernel's, which is new.
func (s *Set) AddTimed() []Op {
	if len(s.Timed) == 0 {
		return nil
	}
	return []Op{AddTimed{Set: s.Name, Type: s.Type, Elements: s.timedElements(), New: true}}
}

// Replacement is the plan that puts the whole table in place of whatever the
// kernel has.
func (t *Table) Replacement() Plan {
	var sets, chains, rules, entries []Op
	for _, name := range slices.Sorted(maps.Keys(t.Sets)) {
		set := t.Sets[name]
		sets = append(sets, AddSet{Name: name, Type: set.Type, Map: set.IsMap(), Comment: set.Comment, Dynamic: set.Dynamic, Timeout: set.Timeout, Timed: set.Timed != nil})
		if len(set.Elements) > 0 {
			sets = append(sets, AddElements{Set: name, Type: set.Type, Elements: SortedElements(set.Elements)})
		}
		sets = append(sets, set.AddTimed()...)
		if len(set.Verdicts) > 0 {
			add := AddVerdicts{Map: name, Type: set.Type}
			for _, e := range SortedElements(set.Verdicts) {
				add.Entries = append(add.Entries, VerdictEntry{Key: e, Verdict: set.Verdicts[e]})
			}
			entries = append(entries, add)
		}
	}
	for _, chain := range t.sortedChains() {
		chains = append(chains, AddChain{Name: chain.Name, Hook: chain.Hook})
		if len(chain.Rules) > 0 {
			rules = append(rules, SetRules{Chain: chain.Name, Rules: chain.Rules})
		}
	}
	return Plan{Family: t.Family, Replace: true, Ops: slices.Concat(sets, chains, rules, entries)}
}
