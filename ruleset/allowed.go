package ruleset

import "github.com/podfence/podfence/ruleset/nft"

// AllowedBy says which rules of policies have accepted a packet: for each direction in which policies are
// about a pod, the one rule that ended the search, in the order of the trace, so egress comes first. It is
// empty for a packet that is denied, and has nothing for a direction in which no rule was needed: where no
// policy is about the pod, where none of those about it decides, and for what is let pass before policies
// are asked. Of an address that several pods have, nobody can tell which pod's rules those are: it has
// nothing for that either.
func (t *Table) AllowedBy(tr nft.Trace) (by []Decided) {
	if tr.Verdict != nft.Accept {
		return nil
	}
	for _, step := range tr.Steps {
		rule, is := step.Rule.Origin.(PolicyRule)
		if !is || step.Rule.Verdict.Action != nft.Accept {
			continue
		}
		by = append(by, t.decided(rule))
	}
	return by
}
