package policy

import (
	"encoding/json"
	"slices"
)

// form returns rules that allow the same in the form that they are enforced in: merged, with
// one selector for very many, and none larger than what comes into force at once.
func form(rules []Rule) (formed []Rule) {
	for _, rule := range merge(rules) {
		rule.Peers = unite(rule.Peers)
		formed = append(formed, rule.split()...)
	}
	return formed
}

// merge returns rules that allow the same, and fewer of them where that can be: the kernel
// walks them for each new connection. Rules that differ only in whom they mean become one,
// and so do those that differ only in ports; what allows all takes the place of what
// allows less of the same. The first one's Index stays.
func merge(rules []Rule) []Rule {
	for before := 0; before != len(rules); {
		before = len(rules)
		rules = mergeBy(rules, Rule.ports, func(into *Rule, r Rule) { into.addPeers(r) })
		rules = mergeBy(rules, Rule.peers, func(into *Rule, r Rule) { into.addPorts(r) })
	}
	for _, r := range rules {
		if r.AnyPeer && r.AnyPort {
			return []Rule{{Index: r.Index, AnyPeer: true, AnyPort: true}}
		}
	}
	return rules
}

// mergeBy makes one of the rules that are the same but for what add adds.
func mergeBy(rules []Rule, same func(Rule) Rule, add func(into *Rule, r Rule)) (merged []Rule) {
	if len(rules) < 2 {
		return rules
	}
	at := map[string]int{}
	for _, r := range rules {
		key := same(r).key()
		if i, there := at[key]; there {
			add(&merged[i], r)
			continue
		}
		at[key] = len(merged)
		merged = append(merged, r)
	}
	return merged
}

// key tells rules apart.
func (r Rule) key() string {
	key, err := json.Marshal(r)
	if err != nil {
		return "" // a Rule has nothing that cannot be written
	}
	return string(key)
}

// ports and peers are one part of a rule.
func (r Rule) ports() Rule { return Rule{AnyPort: r.AnyPort, Ports: r.Ports, NamedPorts: r.NamedPorts} }
func (r Rule) peers() Rule { return Rule{AnyPeer: r.AnyPeer, Peers: r.Peers, Blocks: r.Blocks} }

// addPeers adds those of a rule with the same ports.
func (r *Rule) addPeers(other Rule) {
	if r.AnyPeer = r.AnyPeer || other.AnyPeer; r.AnyPeer {
		r.Peers, r.Blocks = nil, nil
		return
	}
	r.Peers = slices.Concat(r.Peers, other.Peers)
	slices.SortFunc(r.Peers, Selector.Compare)
	r.Peers = slices.Compact(r.Peers)
	r.Blocks = MergeRanges(slices.Concat(r.Blocks, other.Blocks))
}

// addPorts adds those of a rule with the same peers.
func (r *Rule) addPorts(other Rule) {
	if r.AnyPort = r.AnyPort || other.AnyPort; r.AnyPort {
		r.Ports, r.NamedPorts = nil, nil
		return
	}
	r.Ports = mergePorts(slices.Concat(r.Ports, other.Ports))
	r.NamedPorts = slices.Concat(r.NamedPorts, other.NamedPorts)
	slices.SortFunc(r.NamedPorts, compareNamedPort)
	r.NamedPorts = slices.Compact(r.NamedPorts)
}
