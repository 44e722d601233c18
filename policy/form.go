package policy

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// form returns rules that allow the same, in the form in which they are enforced: they are
// merged, very many selectors become a few, and no rule is larger than what comes into force
// at once.
func form(rules []Rule) (formed []Rule) {
	for _, rule := range merge(rules) {
		rule.Peers = unite(rule.Peers)
		formed = append(formed, rule.split()...)
	}
	return formed
}

// merge returns rules that allow the same, and fewer of them where that is possible, because
// the kernel walks them for each new connection. Rules that differ only in their peers become
// one, and so do rules that differ only in their ports. If one of the merged rules allows any
// peer or any port, the result does so too. It has the Index of the first, and the others as Merged.
func merge(rules []Rule) []Rule {
	for before := 0; before != len(rules); {
		before = len(rules)
		rules = mergeBy(rules, Rule.ports, joinPeers)
		rules = mergeBy(rules, Rule.peers, joinPorts)
	}
	for _, r := range rules {
		if r.AnyPeer && r.AnyPort {
			all := joinIndexes(rules)
			all.AnyPeer, all.AnyPort = true, true
			return []Rule{all}
		}
	}
	return rules
}

// joinIndexes is a rule that stands in place of others, and allows nothing yet.
func joinIndexes(rules []Rule) Rule {
	joined := Rule{Index: rules[0].Index}
	for _, r := range rules {
		joined.Merged = append(append(joined.Merged, r.Index), r.Merged...)
	}
	slices.Sort(joined.Merged)
	joined.Merged = slices.DeleteFunc(slices.Compact(joined.Merged), func(index int) bool { return index == joined.Index })
	return joined
}

// mergeBy makes one rule of those that differ only in the part that join joins. All of them
// are joined at once: to join one after another would take time by the square of their number.
func mergeBy(rules []Rule, same func(Rule) Rule, join func([]Rule) Rule) (merged []Rule) {
	if len(rules) < 2 {
		return rules
	}
	var groups [][]Rule
	at := map[string]int{}
	for _, r := range rules {
		key := same(r).key()
		i, known := at[key]
		if !known {
			i = len(groups)
			at[key], groups = i, append(groups, nil)
		}
		groups[i] = append(groups[i], r)
	}
	for _, group := range groups {
		if len(group) == 1 {
			merged = append(merged, group[0])
		} else {
			merged = append(merged, join(group))
		}
	}
	return merged
}

// key is a text that differs between any two rules that differ.
func (r Rule) key() string { return string(r.appendTo(nil)) }

// appendTo appends all that a rule says to b, in an encoding that no other rule has. Encoding
// it as JSON would take most of the time that it takes to read a policy of thousands of rules.
func (r Rule) appendTo(b []byte) []byte {
	number := func(n int) { b = binary.AppendUvarint(b, uint64(n)) }
	text := func(s string) {
		number(len(s))
		b = append(b, s...)
	}
	flag := func(is bool) {
		if is {
			number(1)
		} else {
			number(0)
		}
	}
	number(r.Index + 1) // of the whole policy it is -1
	number(len(r.Merged))
	for _, index := range r.Merged {
		number(index)
	}
	text(r.Name)
	number(int(r.Action))
	flag(r.AnyPeer)
	flag(r.AnyPort)
	number(len(r.Peers))
	for _, s := range r.Peers {
		text(s.Namespace)
		text(s.Namespaces)
		text(s.Pods)
		text(s.Or)
		flag(s.OfNodes)
		text(s.Nodes)
	}
	number(len(r.Domains))
	for _, name := range r.Domains {
		text(string(name))
	}
	number(len(r.Blocks))
	for _, block := range r.Blocks {
		for _, addr := range [...]netip.Addr{block.First, block.Last} {
			number(addr.BitLen())
			bytes := addr.As16()
			b = append(b, bytes[:]...)
		}
	}
	number(len(r.Ports))
	for _, p := range r.Ports {
		number(int(p.Protocol))
		number(int(p.First))
		number(int(p.Last))
	}
	number(len(r.NamedPorts))
	for _, p := range r.NamedPorts {
		number(int(p.Protocol))
		number(int(p.Scope))
		text(p.Name)
	}
	return b
}

// ports returns only the part of a rule that says ports, and peers only the part that says
// peers.
func (r Rule) ports() Rule { return Rule{AnyPort: r.AnyPort, Ports: r.Ports, NamedPorts: r.NamedPorts} }
func (r Rule) peers() Rule {
	return Rule{AnyPeer: r.AnyPeer, Peers: r.Peers, Domains: r.Domains, Blocks: r.Blocks}
}

// joinPeers makes one of rules with the same ports. Rules of NetworkPolicies name no domains.
func joinPeers(rules []Rule) Rule {
	joined := joinIndexes(rules)
	joined.AnyPort, joined.Ports, joined.NamedPorts = rules[0].AnyPort, rules[0].Ports, rules[0].NamedPorts
	if joined.AnyPeer = slices.ContainsFunc(rules, func(r Rule) bool { return r.AnyPeer }); joined.AnyPeer {
		return joined
	}
	var blocks []AddrRange
	for _, r := range rules {
		joined.Peers, blocks = append(joined.Peers, r.Peers...), append(blocks, r.Blocks...)
	}
	slices.SortFunc(joined.Peers, Selector.Compare)
	joined.Peers, joined.Blocks = slices.Compact(joined.Peers), MergeRanges(blocks)
	return joined
}

// joinPorts makes one of rules with the same peers.
func joinPorts(rules []Rule) Rule {
	joined := joinIndexes(rules)
	joined.AnyPeer, joined.Peers, joined.Blocks = rules[0].AnyPeer, rules[0].Peers, rules[0].Blocks
	if joined.AnyPort = slices.ContainsFunc(rules, func(r Rule) bool { return r.AnyPort }); joined.AnyPort {
		return joined
	}
	var ports []PortRange
	for _, r := range rules {
		ports, joined.NamedPorts = append(ports, r.Ports...), append(joined.NamedPorts, r.NamedPorts...)
	}
	slices.SortFunc(joined.NamedPorts, compareNamedPort)
	joined.NamedPorts, joined.Ports = slices.Compact(joined.NamedPorts), mergePorts(ports)
	return joined
}
