package ruleset

import (
	"net/netip"
	"slices"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// Affected are the addresses that a delta is about. Once the table is updated by the delta, a
// flow may be judged otherwise only if it has one of them at either end. The value says whether
// a flow of the address may then be denied that was not before: what a set of peers or of
// endpoints gains only lets more pass, unless a rule denies or passes what is in it. Affected must be
// asked before the update. If it is nil, any flow may be judged otherwise.
func (t *Table) Affected(d policy.Delta) map[netip.Addr]bool {
	if d.PodCIDRs != nil || d.Cluster != nil || d.NodeAddrs != nil {
		return nil
	}
	closes := map[netip.Addr]bool{}
	add := func(close bool, more ...netip.Addr) {
		for _, addr := range more {
			closes[addr] = closes[addr] || close
		}
	}
	for addr := range d.Orphans {
		add(true, addr)
	}
	for addr := range d.Doubtful {
		if len(t.stacks) > 0 { // else nobody asks
			add(true, addr)
		}
	}
	for key, s := range d.Subjects {
		add(true, t.addrs[key]...)
		if s != nil {
			add(true, s.IPs...)
		}
	}
	for _, key := range t.isolatedBy(d.Policies) {
		add(true, t.addrs[key]...)
	}
	for r, until := range d.Resolutions {
		if _, elapsed := d.Elapsed[r]; elapsed {
			continue // open flows go on
		}
		if r.Pod.IsValid() {
			add(until.IsZero(), r.Pod)
		} else {
			add(until.IsZero(), r.Addr)
		}
	}
	// A new set is used only by a policy that is new or changed as well.
	for s, m := range d.Peers {
		if !m.New {
			add(t.closesPeers(s), m.Add...)
			add(true, m.Remove...)
		}
	}
	for n, m := range d.NamedPorts {
		if m.New {
			continue
		}
		closes := t.closes(namedSet(4, n), namedSet(6, n))
		for _, endpoint := range m.Add {
			add(closes, endpoint.Addr)
		}
		for _, endpoint := range m.Remove {
			add(true, endpoint.Addr)
		}
	}
	return closes
}

// closes reports whether a rule denies or passes what is in one of the sets.
func (t *Table) closes(sets ...string) bool {
	return slices.ContainsFunc(sets, func(set string) bool { return t.closing[set] > 0 })
}

// closesPeers reports whether a rule denies or passes what a selector means.
func (t *Table) closesPeers(s policy.Selector) bool {
	for _, x := range t.indexes {
		if _, closes := x.closing[s]; closes {
			return true
		}
	}
	return t.closes(peersSet(4, s), peersSet(6, s))
}

// isolatedBy are the subjects whose chains lead to a chain of one of the policies.
func (t *Table) isolatedBy(policies map[policy.Key]*policy.Policy) (subjects []policy.Key) {
	if len(policies) == 0 {
		return nil
	}
	leads := func(r nft.Rule) bool {
		to, is := r.Origin.(IsolatedBy)
		_, asked := policies[to.Policy]
		return is && asked
	}
	inOne := func(stack string) bool {
		return slices.ContainsFunc(t.stacks[stack].policies, func(key policy.Key) bool { _, asked := policies[key]; return asked })
	}
	namespaces := map[string]bool{}
	for key := range policies {
		namespaces[key.Namespace] = true
	}
	for key := range t.addrs {
		if slices.ContainsFunc(t.stacksOf[key], inOne) {
			subjects = append(subjects, key)
			continue
		}
		if !namespaces[key.Namespace] { // what isolates a pod by itself is a NetworkPolicy of its namespace
			continue
		}
		for _, d := range policy.Directions {
			if chain := t.Chains[podChain(d, key)]; chain != nil && slices.ContainsFunc(chain.Rules, leads) {
				subjects = append(subjects, key)
				break
			}
		}
	}
	return subjects
}
