package ruleset

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// If several subjects claim an address, and nobody can tell which of them has it, the policies of
// all of them apply to it. An accept ends the base chain, so a packet cannot go through their
// chains one after the other. The address has chains of its own instead: for each isolated
// subject one that returns where the subject's chain would accept, and otherwise drops, and one
// that jumps to each of those, and accepts in the end.

// holders returns the subjects that have an address, in order.
func (t *Table) holders(addr netip.Addr) []policy.Key { return t.subjects[addr] }

// hold adds a subject to those that have an address; release removes it.
func (t *Table) hold(addr netip.Addr, key policy.Key) {
	at, _ := slices.BinarySearchFunc(t.subjects[addr], key, compareKey)
	t.subjects[addr] = slices.Insert(t.subjects[addr], at, key)
}

func (t *Table) release(addr netip.Addr, key policy.Key) {
	remaining := slices.DeleteFunc(t.subjects[addr], func(k policy.Key) bool { return k == key })
	if len(remaining) == 0 {
		delete(t.subjects, addr)
	} else {
		t.subjects[addr] = remaining
	}
}

// compareKey is the one order of keys in this package: that of their texts.
func compareKey(a, b policy.Key) int { return strings.Compare(a.String(), b.String()) }

// sortedKeys are the keys of a map, in that order.
func sortedKeys[V any](m map[policy.Key]V) []policy.Key {
	return slices.SortedFunc(maps.Keys(m), compareKey)
}

// isolated reports whether a subject has a chain for a direction.
func (t *Table) isolated(d policy.Direction, key policy.Key) bool {
	_, has := t.Chains[podChain(d, key)]
	return has
}

// verdictOf is where a direction's map leads the packets of a subject's address.
func (t *Table) verdictOf(d policy.Direction, key policy.Key) nft.Verdict {
	switch {
	case t.isolated(d, key):
		return nft.Verdict{Action: nft.Jump, Chain: podChain(d, key)}
	case t.isolated(d.Opposite(), key) && t.options.RevokedMark != 0:
		return nft.Verdict{Action: nft.Jump, Chain: chainBeginnings}
	}
	return nft.Verdict{Action: nft.Accept}
}

// share makes the chains of an address that several subjects have, for a direction, and
// returns where its map leads.
func (u *update) share(d policy.Direction, addr netip.Addr, holders []policy.Key, want map[string]struct{}) nft.Verdict {
	isolated, opposite := false, false
	for _, key := range holders {
		isolated, opposite = isolated || u.isolated(d, key), opposite || u.isolated(d.Opposite(), key)
	}
	switch {
	case !isolated && opposite && u.options.RevokedMark != 0:
		return nft.Verdict{Action: nft.Jump, Chain: chainBeginnings}
	case !isolated:
		return nft.Verdict{Action: nft.Accept}
	}
	all := &nft.Chain{Name: sharedChain(d, addr)}
	for _, key := range holders {
		if u.isolated(d, key) {
			chains, sets := u.returning(d, addr, key)
			for _, chain := range slices.Backward(chains) { // what is jumped to comes first
				u.rulesIn(chain, sets)
				want[chain.Name] = struct{}{}
			}
			all.Rules = append(all.Rules, nft.Rule{Verdict: nft.Verdict{Action: nft.Jump, Chain: chains[0].Name}})
		}
	}
	all.Rules = append(all.Rules, nft.Rule{Verdict: nft.Verdict{Action: nft.Accept}})
	if opposite && u.options.RevokedMark != 0 {
		all.Rules = slices.Concat(beginnings(), all.Rules)
	}
	u.setChain(all)
	want[all.Name] = struct{}{}
	return nft.Verdict{Action: nft.Jump, Chain: all.Name}
}

// returning is a copy of a subject's chain, with the rules of its policies in it, that returns
// where the subject's chain accepts. If the subject is in the admin tier of ClusterNetworkPolicies, what
// comes behind that tier is a chain of its own: a rule that passes jumps there, and returns if the
// packet comes back.
func (u *update) returning(d policy.Direction, addr netip.Addr, key policy.Key) (chains []*nft.Chain, sets []*nft.Set) {
	chain := &nft.Chain{Name: objectName(sharedChain(d, addr), key)}
	chains = []*nft.Chain{chain}
	for _, rule := range u.Chains[podChain(d, key)].Rules {
		if rule.Verdict.Action != nft.Jump {
			chain.Rules = append(chain.Rules, returningRule(rule))
			continue
		}
		rest := &nft.Chain{Name: objectName(thenPrefix+sharedChain(d, addr), key)}
		tier, is := rule.Origin.(InTier)
		admin := is && tier.Tier == policy.AdminTier
		var flattened []nft.Rule
		if is {
			var used []*nft.Set
			flattened, used = u.flatStack(rule.Verdict.Chain)
			sets = append(sets, used...)
		} else {
			flattened = u.flat(rule.Verdict.Chain)
		}
		for _, flat := range flattened {
			if admin && flat.Verdict.Action == nft.Return {
				onward := flat
				onward.Verdict = nft.Verdict{Action: nft.Jump, Chain: rest.Name}
				chain.Rules, flat.Counter = append(chain.Rules, onward), false
			}
			chain.Rules = append(chain.Rules, returningRule(flat))
		}
		if admin {
			chain.Rules = append(chain.Rules, nft.Rule{Verdict: nft.Verdict{Action: nft.Jump, Chain: rest.Name}})
			chain, chains = rest, append(chains, rest)
		}
	}
	return chains, sets
}

// returningRule is a rule that returns where the given one accepts.
func returningRule(rule nft.Rule) nft.Rule {
	if rule.Verdict.Action == nft.Accept {
		rule.Verdict = nft.Verdict{Action: nft.Return}
	}
	return rule
}

// flat are the rules of a policy's chain, with the rules of its sections instead of the jumps to
// them.
func (t *Table) flat(chain string) (rules []nft.Rule) {
	for _, rule := range t.Chains[chain].Rules {
		if rule.Verdict.Action == nft.Jump {
			rules = append(rules, t.flat(rule.Verdict.Chain)...)
		} else {
			rules = append(rules, rule)
		}
	}
	return rules
}

// touchShared marks all addresses that several subjects have as touched, so that their chains are
// brought up to date: the rules of policies are in them.
func (u *update) touchShared() {
	for addr, holders := range u.subjects {
		if len(holders) > 1 {
			u.touched[addr] = struct{}{}
		}
	}
}

// What the names of the chains begin with that sharedChain and returning make.
const sharedPrefix, thenPrefix = "shared-", "then-"

// sharedChain is the chain of an address that several subjects have.
func sharedChain(d policy.Direction, addr netip.Addr) string {
	return fmt.Sprintf(sharedPrefix+"%s-%s", d, strings.ReplaceAll(addr.String(), ":", "_"))
}

// addresses brings the maps up to date for the addresses whose subjects were touched.
func (u *update) addresses() {
	for _, addr := range sortedBy(u.touched, netip.Addr.String) {
		holders := u.holders(addr)
		shared := map[string]struct{}{}
		for _, d := range policy.Directions {
			switch {
			case len(holders) == 1:
				u.setVerdict(d, addr, u.verdictOf(d, holders[0]))
			case len(holders) > 1:
				u.setVerdict(d, addr, u.share(d, addr, holders, shared))
			}
		}
		// The chain that jumps is removed before the chains that it jumps to: their names are in that
		// order.
		for _, name := range sortedBy(u.shared[addr], func(s string) string { return s }) {
			if _, stays := shared[name]; !stays {
				u.oldChains = u.dropChain(name, u.oldChains)
			}
		}
		if len(shared) > 0 {
			u.shared[addr] = shared
		} else {
			delete(u.shared, addr)
		}
	}
}
