package ruleset

import "github.com/podfence/podfence/policy"

// Indexes reports whether the rules of a policy are found by the peer's address, so that it has no chain
// of its own.
func (t *Table) Indexes(d policy.Direction, key policy.Key) bool {
	_, indexed := t.parts[d][key]
	return indexed
}
