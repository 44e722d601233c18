package ruleset

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// An address that several subjects have, of which nobody can tell which has it, is
// fenced by all of them. An accept ends the base chain, so their chains cannot be gone
// through one after the other. The address has chains of its own instead: one for each
// isolated subject, that returns where the subject's would accept and else drops, and
// one that jumps to each of those, and accepts in the end.

// holders returns the subjects that have an address, in order.
func (t *Table) holders(addr netip.Addr) []policy.Key { return t.subjects[addr] }

// hold adds a subject to those that have an address, release takes it off.
func (t *Table) hold(addr netip.Addr, key policy.Key) {
	at, _ := slices.BinarySearchFunc(t.subjects[addr], key, compareKey)
	t.subjects[addr] = slices.Insert(t.subjects[addr], at, key)
}

func (t *Table) release(addr netip.Addr, key policy.Key) {
	left := slices.DeleteFunc(t.subjects[addr], func(k policy.Key) bool { return k == key })
	if len(left) == 0 {
		delete(t.subjects, addr)
	} else {
		t.subjects[addr] = left
	}
}

func compareKey(a, b policy.Key) int { return compareString(a.String(), b.String()) }

// isolated reports whether a subject has a chain for a direction.
func (t *Table) isolated(d policy.Direction, key policy.Key) bool {
	_, has := t.Chains[podChain(d, key)]
	return has
}

// verdictOf is where a direction's map leads the address of a subject.
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
			one := u.returning(d, addr, key)
			u.setChain(one)
			want[one.Name] = struct{}{}
			all.Rules = append(all.Rules, nft.Rule{Verdict: nft.Verdict{Action: nft.Jump, Chain: one.Name}})
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

// returning is a subject's chain, with the rules of its policies in it, that returns
// where that accepts.
func (u *update) returning(d policy.Direction, addr netip.Addr, key policy.Key) *nft.Chain {
	chain := &nft.Chain{Name: objectName(sharedChain(d, addr), key)}
	for _, rule := range u.Chains[podChain(d, key)].Rules {
		if rule.Verdict.Action != nft.Jump {
			chain.Rules = append(chain.Rules, rule)
			continue
		}
		for _, allows := range u.flat(rule.Verdict.Chain) {
			allows.Verdict = nft.Verdict{Action: nft.Return}
			chain.Rules = append(chain.Rules, allows)
		}
	}
	return chain
}

// flat are the rules of a policy's chain, those of its sections instead of the jumps to them.
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

// touchShared has the chains of all addresses that several subjects have looked at: they have
// the rules of policies in them.
func (u *update) touchShared() {
	for addr, holders := range u.subjects {
		if len(holders) > 1 {
			u.touched[addr] = struct{}{}
		}
	}
}

// sharedChain is the chain of an address that several subjects have.
func sharedChain(d policy.Direction, addr netip.Addr) string {
	return fmt.Sprintf("shared-%s-%s", d, strings.ReplaceAll(addr.String(), ":", "_"))
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
		// The chain that jumps goes before those that it jumps to.
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
