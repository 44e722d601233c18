package ruleset

import (
	"slices"

	"github.com/podfence/podfence/policy"
)

// A Refusal is the error of a plan that the kernel will not have, now or later. An
// error of the moment, such as a lack of memory, is none.
type Refusal struct {
	// Op is the index in Plan.Ops of the first operation that was refused; -1 if
	// that is not known, or if it is none of them.
	Op int
	// Err is what the kernel says.
	Err error
}

func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap returns Err.
func (r *Refusal) Unwrap() error { return r.Err }

// Users are the policies that an operation is for, of those of the intent that its
// table was built for: those whose chain it makes, or whose rules look its set up.
// With none, the operation is for all, or for a pod.
func Users(in policy.Intent, op Op) (users []policy.Key) {
	var chain, set string
	switch op := op.(type) {
	case AddChain:
		chain = op.Name
	case SetRules:
		chain = op.Chain
	case AddSet:
		set = op.Name
	case AddElements:
		set = op.Set
	}
	for _, key := range sortedBy(in.Policies, policy.Key.String) {
		for _, d := range policy.Directions {
			p := in.Policies[key]
			if slices.ContainsFunc(chainsOf(d, &p), func(made *Chain) bool {
				return made.Name == chain || slices.ContainsFunc(made.Rules, func(r Rule) bool { return set != "" && r.looksUp(set) })
			}) {
				users = append(users, key)
				break
			}
		}
	}
	return users
}

// chainsOf are the chains of a policy for a direction: its own, and its sections'.
func chainsOf(d policy.Direction, p *policy.Policy) []*Chain {
	own, _ := policyChainOf(d, p)
	chains := []*Chain{own}
	for _, section := range p.Sections[d] {
		chain, _ := chainOf(sectionChain(policy.SectionKey{Policy: p.Key, Direction: d, Name: section.Name}), d, section.Rules)
		chains = append(chains, chain)
	}
	return chains
}

// looksUp reports whether a match of the rule is a lookup in the set.
func (r Rule) looksUp(set string) bool {
	return slices.ContainsFunc(r.Matches, func(m Match) bool {
		lookup, is := m.(Lookup)
		return is && lookup.Set == set
	})
}
