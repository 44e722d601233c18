package ruleset

import (
	"slices"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// Users are the policies that an operation is for: the policies whose chain it makes, or whose
// rules look up its set. in is the intent that the table was built for. If there are none, the
// operation is for all policies, or for a pod.
func Users(in policy.Intent, op nft.Op, o Options) (users []policy.Key) {
	var chain, set string
	switch op := op.(type) {
	case nft.AddChain:
		chain = op.Name
	case nft.SetRules:
		chain = op.Chain
	case nft.AddSet:
		set = op.Name
	case nft.AddElements:
		set = op.Set
	case nft.AddTimed:
		set = op.Set
	}
	for _, key := range sortedKeys(in.Policies) {
		for _, d := range policy.Directions {
			p := in.Policies[key]
			if slices.ContainsFunc(chainsOf(d, &p, o), func(made *nft.Chain) bool {
				return chain != "" && made.Name == chain || slices.ContainsFunc(made.Rules, func(r nft.Rule) bool { return set != "" && r.LooksUp(set) })
			}) {
				users = append(users, key)
				break
			}
		}
	}
	return users
}

// chainsOf are the chains of a policy for a direction: its own, and its sections'. What is in the
// chain of a tier comes without that chain's name.
func chainsOf(d policy.Direction, p *policy.Policy, o Options) []*nft.Chain {
	var chains []*nft.Chain
	if !p.Passes(d) {
		own, _ := policyChainOf(d, p, o)
		chains = append(chains, own)
	}
	for _, section := range p.Sections[d] {
		name := ""
		if section.Name != "" {
			name = sectionChain(policy.SectionKey{Policy: p.Key, Direction: d, Name: section.Name})
		}
		chain, _ := chainOf(name, p.Key, d, section.Rules, o)
		chains = append(chains, chain)
	}
	return chains
}
