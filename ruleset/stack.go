package ruleset

import (
	"maps"
	"slices"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// The policies of a tier that are about a pod have a chain, which the chains of all pods with the same
// ones share. It jumps to each policy's chain, in order. A rule that passes must skip the policies
// behind it, so it is in the tier's chain itself and returns from there; the rules before and behind it
// are in chains of their own, the policy's sections. A single NetworkPolicy needs no such chain.

// stack is a chain of a tier.
type stack struct {
	tier      policy.Tier
	direction policy.Direction
	policies  []policy.Key
	// users is how many subjects have it.
	users int
}

// stack notes which stacks a subject has, and makes those that do not exist yet.
func (u *update) stack(key policy.Key, s *policy.Subject) {
	before := u.stacksOf[key]
	delete(u.stacksOf, key)
	if s != nil {
		for _, d := range policy.Directions {
			for _, tier := range tiersOf(d, s) {
				if policies := s.Stack(tier, d); isShared(tier, policies) {
					name := stackChain(tier, d, policies)
					if u.stacks[name] == nil {
						u.stacks[name] = &stack{tier: tier, direction: d, policies: policies}
						u.rulesIn(u.stackChainOf(name))
					}
					u.stacks[name].users++
					u.stacksOf[key] = append(u.stacksOf[key], name)
				}
			}
		}
	}
	for _, name := range before {
		u.stacks[name].users--
	}
}

// restack brings the stacks up to date if ClusterNetworkPolicies have changed, and drops those that no
// subject has any more.
func (u *update) restack(changed map[policy.Key]*policy.Policy) {
	any := false // a policy that is in no stack may tear an index apart
	for key := range changed {
		any = any || key.Namespace == ""
	}
	for _, name := range slices.Sorted(maps.Keys(u.stacks)) {
		switch {
		case u.stacks[name].users == 0:
			delete(u.stacks, name)
			u.oldStacks = u.dropChain(name, u.oldStacks)
		case any && u.stacks[name].tier != policy.NetworkPolicyTier:
			u.rulesIn(u.stackChainOf(name))
		}
	}
}

// tiersOf are the tiers that a subject's chain leads to: to the last one only if no NetworkPolicy has
// the last word.
func tiersOf(d policy.Direction, s *policy.Subject) []policy.Tier {
	if s.Isolated[d] {
		return policy.Tiers[:2]
	}
	return policy.Tiers[:]
}

// isShared reports whether the policies of a tier have a chain.
func isShared(tier policy.Tier, stack []policy.Key) bool {
	return len(stack) > 1 || len(stack) == 1 && tier != policy.NetworkPolicyTier
}

// stackChainOf is the chain of a stack, with the sets that are named by their content.
func (t *Table) stackChainOf(name string) (*nft.Chain, []*nft.Set) {
	if s := t.stacks[name]; s.tier == policy.NetworkPolicyTier {
		chain := &nft.Chain{Name: name}
		for _, key := range s.policies {
			chain.Rules = append(chain.Rules, isolatedBy(s.direction, key))
		}
		return chain, nil
	}
	rules, sets := t.stackRules(t.stacks[name], func(p *policy.Policy) ([]nft.Rule, []*nft.Set) {
		d := t.stacks[name].direction
		if parts, indexed := t.parts[d][p.Key]; indexed {
			return t.leadsToParts(d, parts)
		}
		return leadsTo(d, p, t.options)
	})
	return &nft.Chain{Name: name, Rules: rules}, sets
}

// flatStack are the rules of a stack, without any jumps.
func (t *Table) flatStack(name string) ([]nft.Rule, []*nft.Set) {
	s := t.stacks[name]
	if s.tier == policy.NetworkPolicyTier {
		return t.flat(name), nil
	}
	return t.stackRules(s, func(p *policy.Policy) ([]nft.Rule, []*nft.Set) {
		return allRulesOf(p.Key, s.direction, p.Rules[s.direction], t.options)
	})
}

// stackRules are the rules of a stack, of which rulesFor makes those for each policy.
func (t *Table) stackRules(s *stack, rulesFor func(*policy.Policy) ([]nft.Rule, []*nft.Set)) (rules []nft.Rule, sets []*nft.Set) {
	askedPeer, askedSubject := false, false
	for _, key := range s.policies {
		p := t.clusterPolicies[key]
		peer, subject := p.AsksWho(s.direction)
		if peer && !askedPeer {
			rules, askedPeer = append(rules, doubtRules(s.direction.Opposite(), t.options)...), true
		}
		if subject && !askedSubject {
			rules, askedSubject = append(rules, doubtRules(s.direction, t.options)...), true
		}
		made, used := rulesFor(p)
		rules, sets = append(rules, made...), append(sets, used...)
	}
	return rules, sets
}

// doubtRules deny what comes from an address in doubt, or for ingress what goes to one.
func doubtRules(d policy.Direction, o Options) (rules []nft.Rule) {
	addr4, addr6 := addrFields(d)
	for i, field := range []nft.Field{addr4, addr6} {
		rules = append(rules, nft.Rule{
			Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{field}, Set: doubtfulSet(families[i])}},
			Counter: true, Verdict: o.deny(), Origin: nft.Sentence("nobody can tell which pod has this address, or what that pod is"),
		})
	}
	return rules
}

// leadsTo are the rules by which a tier's chain leads to a policy.
func leadsTo(d policy.Direction, p *policy.Policy, o Options) (rules []nft.Rule, sets []*nft.Set) {
	jump := func(chain string) {
		rules = append(rules, nft.Rule{Verdict: nft.Verdict{Action: nft.Jump, Chain: chain}, Origin: InStack{p.Key}})
	}
	if !p.Passes(d) {
		jump(policyChain(d, p.Key))
		return rules, nil
	}
	for _, section := range p.Sections[d] {
		if section.Name != "" {
			jump(sectionChain(policy.SectionKey{Policy: p.Key, Direction: d, Name: section.Name}))
			continue
		}
		made, used := allRulesOf(p.Key, d, section.Rules, o)
		rules, sets = append(rules, made...), append(sets, used...)
	}
	return rules, sets
}
