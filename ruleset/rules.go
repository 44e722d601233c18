package ruleset

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// podChainOf is the chain of a pod that policies are about in a direction. First come those
// ClusterNetworkPolicies that are before all others. Then, if the pod is isolated, each of its
// NetworkPolicies in turn may accept a packet; what none accepts is denied. If it is not isolated, the
// other ClusterNetworkPolicies come last; what they don't deny is accepted.
func podChainOf(d policy.Direction, s *policy.Subject, o Options) *nft.Chain {
	chain := &nft.Chain{Name: podChain(d, s.Key), Rules: []nft.Rule{
		{Matches: []nft.Match{nft.Invalid}, Counter: true, Verdict: nft.Verdict{Action: nft.Drop}, Origin: InvalidFor{Pod: s.Key, Direction: d}},
	}}
	if o.RevokedMark != 0 && s.Fenced(d.Opposite()) {
		chain.Rules = append(chain.Rules, beginnings()...)
	}
	for _, tier := range tiersOf(d, s) {
		switch stack := s.Stack(tier, d); {
		case isShared(tier, stack):
			chain.Rules = append(chain.Rules, nft.Rule{Verdict: nft.Verdict{Action: nft.Jump, Chain: stackChain(tier, d, stack)}, Origin: InTier{tier, d}})
		case len(stack) == 1:
			chain.Rules = append(chain.Rules, isolatedBy(d, stack[0]))
		}
	}
	if !s.Isolated[d] {
		chain.Rules = append(chain.Rules, nft.Rule{Verdict: nft.Verdict{Action: nft.Accept}})
		return chain
	}
	chain.Rules = append(chain.Rules, nft.Rule{Counter: true, Verdict: o.deny(), Origin: Isolated{Pod: s.Key, Direction: d}})
	return chain
}

// isolatedBy leads to a NetworkPolicy.
func isolatedBy(d policy.Direction, key policy.Key) nft.Rule {
	return nft.Rule{Verdict: nft.Verdict{Action: nft.Jump, Chain: policyChain(d, key)}, Origin: IsolatedBy{key}}
}

// deny is the verdict on what a policy denies.
func (o Options) deny() nft.Verdict {
	if o.Reject {
		return nft.Verdict{Action: nft.Reject}
	}
	return nft.Verdict{Action: nft.Drop}
}

// policyChainOf is the chain of a policy's rules for a direction, with the sets that are named by
// their content. If the policy has sections, the rules and sets are in these, and its chain only
// jumps to them.
func policyChainOf(d policy.Direction, p *policy.Policy, o Options) (*nft.Chain, []*nft.Set) {
	name := policyChain(d, p.Key)
	if len(p.Sections[d]) == 0 {
		return chainOf(name, p.Key, d, p.Rules[d], o)
	}
	chain := &nft.Chain{Name: name}
	for _, section := range p.Sections[d] {
		to := sectionChain(policy.SectionKey{Policy: p.Key, Direction: d, Name: section.Name})
		chain.Rules = append(chain.Rules, nft.Rule{Verdict: nft.Verdict{Action: nft.Jump, Chain: to}})
	}
	return chain, nil
}

// chainOf is a chain of a policy's rules, with the sets that are named by their content.
func chainOf(name string, of policy.Key, d policy.Direction, rules []policy.Rule, o Options) (*nft.Chain, []*nft.Set) {
	made, sets := allRulesOf(of, d, rules, o)
	return &nft.Chain{Name: name, Rules: made}, sets
}

// allRulesOf turns rules of a policy into kernel rules.
func allRulesOf(of policy.Key, d policy.Direction, rules []policy.Rule, o Options) (all []nft.Rule, sets []*nft.Set) {
	made := make([][]nft.Rule, len(rules))
	for i, rule := range rules {
		var used []*nft.Set
		made[i], used = rulesOf(of, d, rule, o)
		sets = append(sets, used...)
	}
	return slices.Concat(made...), sets // the table keeps them, without room for more
}

// rulesOf turns one rule of a policy into kernel rules: one for each combination of a way to match
// the peers and a way to match the ports.
func rulesOf(of policy.Key, d policy.Direction, r policy.Rule, o Options) (rules []nft.Rule, sets []*nft.Set) {
	peers, sets := peerMatches(d, r)
	type way struct {
		matches []nft.Match
		family  family // 0: both
	}
	var ports []way
	if r.AnyPort {
		ports = append(ports, way{})
	}
	if len(r.Ports) > 0 {
		set := portsSetOf(r.Ports)
		sets = append(sets, set)
		ports = append(ports, way{matches: []nft.Match{nft.Lookup{Fields: []nft.Field{nft.L4Protocol, nft.DstPort}, Set: set.Name}}})
	}
	for _, name := range r.NamedPorts {
		for _, f := range families {
			ports = append(ports, way{[]nft.Match{nft.Lookup{Fields: []nft.Field{f.dst(), nft.L4Protocol, nft.DstPort}, Set: namedSet(f, name)}}, f})
		}
	}
	origin := nft.Origin(PolicyRule{Policy: of, Direction: d, Index: r.Index, Merged: mergedText(r), Name: r.Name})
	// A rule that passes is in the chain of its tier, and leads back to the pod's chain.
	verdict := map[policy.Action]nft.Verdict{policy.Accept: {Action: nft.Accept}, policy.Deny: o.deny(), policy.Pass: {Action: nft.Return}}[r.Action]
	for _, peer := range peers {
		for _, port := range ports {
			if peer.family != 0 && port.family != 0 && peer.family != port.family {
				continue
			}
			rules = append(rules, nft.Rule{
				Matches: append(append([]nft.Match{}, peer.matches...), port.matches...),
				Counter: true,
				Verdict: verdict,
				Origin:  origin,
			})
		}
	}
	if len(rules) == 0 { // without a rule nothing uses the sets
		return nil, nil
	}
	return rules, sets
}

type peerMatch struct {
	matches []nft.Match
	family  family // 0: both
}

// peerMatches are the matches of a rule's peers. If the rule is for any peer, no match is needed;
// else there is one set for each peer and family.
func peerMatches(d policy.Direction, r policy.Rule) (matches []peerMatch, sets []*nft.Set) {
	if r.AnyPeer {
		return []peerMatch{{}}, nil
	}
	for _, f := range families {
		field := f.src()
		if d == policy.Egress {
			field = f.dst()
		}
		for _, s := range r.Peers {
			matches = append(matches, peerMatch{[]nft.Match{nft.Lookup{Fields: []nft.Field{field}, Set: peersSet(f, s)}}, f})
		}
		named, used := domainMatches(f, r.Domains)
		matches, sets = append(matches, named...), append(sets, used...)
		if set := blockSetOf(f, r.Blocks); set != nil {
			sets = append(sets, set)
			matches = append(matches, peerMatch{[]nft.Match{nft.Lookup{Fields: []nft.Field{field}, Set: set.Name}}, f})
		}
	}
	return matches, sets
}

// blockSetOf is the set of one family's ranges; nil if there are none.
func blockSetOf(f family, blocks []policy.AddrRange) *nft.Set {
	elements := map[nft.Element]struct{}{}
	for _, block := range blocks {
		if f.has(block.First) {
			elements[AddrRangeElement(block)] = struct{}{}
		}
	}
	if len(elements) == 0 {
		return nil
	}
	set := &nft.Set{Type: f.ranges(), Life: nft.ByContent}
	set.SetElements(elements)
	set.Name = blockSet(f, set.Ordered())
	set.Comment = "ipBlock " + set.Type.Text(set.Ordered()[0])
	if n := len(elements) - 1; n > 0 {
		set.Comment += fmt.Sprintf(" and %d more", n)
	}
	return set
}

// portsSetOf is the set of a rule's ports. Single ports are looked up by hash: that costs a new
// connection half of what ranges cost, and such a set takes next to no time to load.
func portsSetOf(ports []policy.PortRange) *nft.Set {
	set, elements := &nft.Set{Type: portRanges, Life: nft.ByContent}, map[nft.Element]struct{}{}
	single := policy.SinglePorts(ports)
	if single {
		set.Type = singlePorts
	}
	for _, r := range ports {
		if single {
			elements[nft.PortElement(r.Protocol, r.First)] = struct{}{}
		} else {
			elements[PortRangeElement(r)] = struct{}{}
		}
	}
	set.SetElements(elements)
	set.Name = portsSet(set.Ordered())
	return set
}

// singlePorts is the type of sets whose elements are a port each, portRanges of those whose
// elements are a range of ports each.
var singlePorts, portRanges = nft.Of(nft.InetProto, nft.InetService), nft.RangesOf(nft.InetProto, nft.InetService)

func (f family) has(addr netip.Addr) bool { return addr.Is4() == (f == 4) }

func (f family) src() nft.Field {
	if f == 4 {
		return nft.SrcAddr4
	}
	return nft.SrcAddr6
}

func (f family) dst() nft.Field {
	if f == 4 {
		return nft.DstAddr4
	}
	return nft.DstAddr6
}

// datatype is the datatype of the family's addresses. addr, ranges and endpoint are the types of
// sets whose elements are an address each, a range of addresses, and an address with a port.
func (f family) datatype() nft.Datatype {
	if f == 4 {
		return nft.IPv4Addr
	}
	return nft.IPv6Addr
}

func (f family) addr() nft.SetType   { return nft.Of(f.datatype()) }
func (f family) ranges() nft.SetType { return nft.RangesOf(f.datatype()) }
func (f family) endpoint() nft.SetType {
	return nft.Of(f.datatype(), nft.InetProto, nft.InetService)
}
