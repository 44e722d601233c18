package ruleset

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/podfence/podfence/policy"
)

// staticChains are those that do not depend on the cluster.
func staticChains(o Options) []*Chain {
	if o.RevokedMark == 0 {
		return baseChains(o)
	}
	return append(baseChains(o), beginningsChain())
}

// baseChains are where packets enter. Each direction has a base chain of its
// own, because accept ends only the chain it is said in: "egress allows" and
// "ingress allows" need no marks to be combined.
//
// They run just before the filter priority, where most firewalls sit, so that
// what those drop stays dropped, and after destination NAT (-100): a packet to
// a Service already has its pod's address and port.
func baseChains(o Options) []*Chain {
	var tunnel []Rule
	if o.TunnelPort != 0 {
		tunnel = tunnelRules()
	}
	chains := []*Chain{
		{Name: chainEgressForward, Hook: &Hook{Point: Forward, Priority: -10}, Rules: baseRules(policy.Egress, o, tunnel...)},
		{Name: chainIngressForward, Hook: &Hook{Point: Forward, Priority: -9}, Rules: baseRules(policy.Ingress, o)},
	}
	if !o.AllowToNode {
		// The node's own packets to itself may have an address of the pod range
		// (the bridge's), which no pod has.
		rules := append([]Rule{{Matches: []Match{Loopback{}}, Verdict: Verdict{Action: Accept}}}, baseRules(policy.Egress, o)...)
		chains = append(chains, &Chain{Name: chainEgressInput, Hook: &Hook{Point: Input, Priority: -10}, Rules: rules})
	}
	if o.Guard {
		chains = append(chains, portsChain())
	}
	if o.Masquerade {
		chains = append(chains, masqueradeChain())
	}
	if o.TunnelPort != 0 {
		chains = append(chains, tunnelChain())
	}
	return chains
}

// beginningsChain is where the map of a direction leads what is with a pod that
// is isolated for the other direction only.
func beginningsChain() *Chain {
	rules := append([]Rule{{Matches: []Match{Invalid}, Counter: true, Verdict: Verdict{Action: Drop}}}, beginnings()...)
	return &Chain{Name: chainBeginnings, Rules: append(rules, Rule{Verdict: Verdict{Action: Accept}})}
}

// beginnings let nothing pass that is new to connection tracking but begins no
// connection. They are for a direction whose opposite the pod is isolated for: there,
// such a packet may be the answer to a connection that the pod's policies deny. A
// revoked flow keeps its mark for as long as connection tracking knows it; when the
// entry is deleted, or runs out, and the pod then goes on talking, the flow would
// begin anew, reversed.
//
// The price: a connection that connection tracking has lost goes on only if its next
// packet is judged, and allowed, by the one direction that the pod is isolated for.
func beginnings() (rules []Rule) {
	for _, protocol := range []policy.Protocol{policy.TCP, policy.SCTP} {
		rules = append(rules, Rule{
			Matches: []Match{Midstream(protocol)}, Counter: true, Verdict: Verdict{Action: Drop}, Comment: "begins no connection",
		})
	}
	return rules
}

// baseRules are the rules of a base chain: what needs no judging, what has to be
// looked at first, then the pod's own chain, then nothing for an address of the pod
// range that no known pod has (closed until known).
func baseRules(d policy.Direction, o Options, first ...Rule) []Rule {
	addr4, addr6 := SrcAddr4, SrcAddr6
	if d == policy.Ingress {
		addr4, addr6 = DstAddr4, DstAddr6
	}
	var rules []Rule
	if o.RevokedMark != 0 {
		rules = append(rules, Rule{Matches: []Match{Mark(o.RevokedMark)}, Counter: true, Verdict: Verdict{Action: Drop}, Comment: "a policy has changed: no longer allowed"})
	}
	rules = append(rules, Rule{Matches: []Match{Established | Related}, Verdict: Verdict{Action: Accept}})
	rules = append(rules, first...)
	return append(rules,
		Rule{
			Matches: []Match{Lookup{Fields: []Field{ICMPv6MessageType}, Set: setNeighbourDiscovery}, HopLimit(policy.NeighbourDiscoveryHopLimit)},
			Verdict: Verdict{Action: Accept},
		},
		Rule{
			Matches: []Match{Lookup{Fields: []Field{ICMPv6MessageType}, Set: setMulticastListener}, HopLimit(policy.MulticastListenerHopLimit)},
			Verdict: Verdict{Action: Accept},
		},
		Rule{Verdict: Verdict{Action: Dispatch, Field: addr4, Map: podMap(d, 4)}},
		Rule{Verdict: Verdict{Action: Dispatch, Field: addr6, Map: podMap(d, 6)}},
		Rule{Matches: []Match{Lookup{Fields: []Field{addr4}, Set: podRangeSet(4)}}, Counter: true, Verdict: Verdict{Action: Drop}, Comment: "no pod known by this address"},
		Rule{Matches: []Match{Lookup{Fields: []Field{addr6}, Set: podRangeSet(6)}}, Counter: true, Verdict: Verdict{Action: Drop}, Comment: "no pod known by this address"},
	)
}

// baseSets are the sets and maps that are always there, empty of pods.
func baseSets(o Options) []*Set {
	sets := []*Set{
		{Name: setNeighbourDiscovery, Type: ICMPv6Type, Elements: messageTypes(policy.NeighbourDiscovery), Comment: "without these no IPv6 link works"},
		{Name: setMulticastListener, Type: ICMPv6Type, Elements: messageTypes(policy.MulticastListener), Comment: "without these no IPv6 link works"},
	}
	if o.TunnelPort != 0 {
		sets = append(sets, tunnelSets(o.TunnelPort)...)
	}
	for _, f := range families {
		for _, d := range policy.Directions {
			sets = append(sets, &Set{
				Name: podMap(d, f), Type: f.addr(), Verdicts: map[Element]Verdict{},
				Comment: fmt.Sprintf("this node's pods: where their %s goes on", d),
			})
		}
		sets = append(sets, &Set{
			Name: podRangeSet(f), Type: f.ranges(), Elements: map[Element]struct{}{},
			Comment: "this node's pod ranges: closed but for known pods",
		})
		if o.Masquerade {
			sets = append(sets, &Set{
				Name: clusterSet(f), Type: f.ranges(), Elements: map[Element]struct{}{},
				Comment: "what pods reach with their own address",
			})
		}
	}
	return sets
}

func messageTypes(types []uint8) map[Element]struct{} {
	elements := map[Element]struct{}{}
	for _, t := range types {
		elements[Element{Protocol: t}] = struct{}{}
	}
	return elements
}

// podChainOf is the chain of a pod that is isolated for a direction: each
// policy in turn may accept; what none does is denied.
func podChainOf(d policy.Direction, s *policy.Subject, o Options) *Chain {
	chain := &Chain{Name: podChain(d, s.Key), Rules: []Rule{
		{Matches: []Match{Invalid}, Counter: true, Verdict: Verdict{Action: Drop}},
	}}
	if o.RevokedMark != 0 && len(s.Isolating[d.Opposite()]) > 0 {
		chain.Rules = append(chain.Rules, beginnings()...)
	}
	for _, key := range s.Isolating[d] {
		chain.Rules = append(chain.Rules, Rule{Verdict: Verdict{Action: Jump, Chain: policyChain(d, key)}})
	}
	deny := Verdict{Action: Drop}
	if o.Reject {
		deny = Verdict{Action: Reject}
	}
	chain.Rules = append(chain.Rules, Rule{Counter: true, Verdict: deny})
	return chain
}

// policyChainOf is the chain of a policy's rules for a direction, with the
// sets that are named by their content.
func policyChainOf(d policy.Direction, p *policy.Policy) (*Chain, []*Set) {
	chain := &Chain{Name: policyChain(d, p.Key)}
	var sets []*Set
	for _, rule := range p.Rules[d] {
		rules, used := rulesOf(d, rule)
		chain.Rules = append(chain.Rules, rules...)
		sets = append(sets, used...)
	}
	return chain, sets
}

// rulesOf renders one rule of a policy: a kernel rule for each way that its
// peers and its ports can both match.
func rulesOf(d policy.Direction, r policy.Rule) (rules []Rule, sets []*Set) {
	peers, sets := peerMatches(d, r)
	type way struct {
		matches []Match
		family  family // 0: both
	}
	var ports []way
	if r.AnyPort {
		ports = append(ports, way{})
	}
	for _, set := range portsSetsOf(r.Ports) {
		sets = append(sets, set)
		ports = append(ports, way{matches: []Match{Lookup{Fields: []Field{L4Protocol, DstPort}, Set: set.Name}}})
	}
	for _, name := range r.NamedPorts {
		for _, f := range families {
			ports = append(ports, way{[]Match{Lookup{Fields: []Field{f.dst(), L4Protocol, DstPort}, Set: namedSet(f, name)}}, f})
		}
	}
	for _, peer := range peers {
		for _, port := range ports {
			if peer.family != 0 && port.family != 0 && peer.family != port.family {
				continue
			}
			rules = append(rules, Rule{
				Matches: append(append([]Match{}, peer.matches...), port.matches...),
				Counter: true,
				Verdict: Verdict{Action: Accept},
				Comment: fmt.Sprintf("%s[%d]", d, r.Index),
			})
		}
	}
	if len(rules) == 0 { // no rule, no user of a set
		return nil, nil
	}
	return rules, sets
}

type peerMatch struct {
	matches []Match
	family  family // 0: both
}

// peerMatches are the matches of a rule's peers: none is needed for any peer,
// else one set each per family.
func peerMatches(d policy.Direction, r policy.Rule) (matches []peerMatch, sets []*Set) {
	if r.AnyPeer {
		return []peerMatch{{}}, nil
	}
	for _, f := range families {
		field := f.src()
		if d == policy.Egress {
			field = f.dst()
		}
		for _, s := range r.Peers {
			matches = append(matches, peerMatch{[]Match{Lookup{Fields: []Field{field}, Set: peersSet(f, s)}}, f})
		}
		if set := blockSetOf(f, r.Blocks); set != nil {
			sets = append(sets, set)
			matches = append(matches, peerMatch{[]Match{Lookup{Fields: []Field{field}, Set: set.Name}}, f})
		}
	}
	return matches, sets
}

// blockSetOf is the set of one family's ranges; nil if there are none.
func blockSetOf(f family, blocks []policy.AddrRange) *Set {
	elements := map[Element]struct{}{}
	for _, block := range blocks {
		if f.has(block.First) {
			elements[AddrRangeElement(block)] = struct{}{}
		}
	}
	if len(elements) == 0 {
		return nil
	}
	set := &Set{Name: blockSet(f, elements), Type: f.ranges()}
	set.setElements(elements)
	set.Comment = "ipBlock " + set.Type.text(set.ordered[0])
	if n := len(elements) - 1; n > 0 {
		set.Comment += fmt.Sprintf(" and %d more", n)
	}
	return set
}

// setElements makes these the elements of a set.
func (s *Set) setElements(elements map[Element]struct{}) {
	s.Elements = elements
	if s.Type.interval() {
		s.ordered = sortedElements(elements)
	}
}

// portsSetsOf are the sets of a rule's ports: one, but for very many ranges. Single
// ports are looked up by hash, which costs a new connection half of what ranges do,
// and to load next to nothing. Ranges take the kernel time by the square of their
// number in a set (nft_set_pipapo): 10,000 more than a second, but in sets of
// policy.RangesPerSet a fifth of that.
func portsSetsOf(ports []policy.PortRange) (sets []*Set) {
	if len(ports) == 0 {
		return nil
	}
	if policy.SinglePorts(ports) {
		return []*Set{newPortsSet(Port, ports)}
	}
	for some := range slices.Chunk(ports, policy.RangesPerSet) {
		sets = append(sets, newPortsSet(PortRange, some))
	}
	return sets
}

func newPortsSet(setType SetType, ports []policy.PortRange) *Set {
	set, elements := &Set{Type: setType}, map[Element]struct{}{}
	for _, r := range ports {
		if set.Type == Port {
			elements[PortElement(r.Protocol, r.First)] = struct{}{}
		} else {
			elements[PortRangeElement(r)] = struct{}{}
		}
	}
	set.Name = portsSet(elements)
	set.setElements(elements)
	return set
}

func (f family) has(addr netip.Addr) bool { return addr.Is4() == (f == 4) }

func (f family) src() Field {
	if f == 4 {
		return SrcAddr4
	}
	return SrcAddr6
}

func (f family) dst() Field {
	if f == 4 {
		return DstAddr4
	}
	return DstAddr6
}

func (f family) addr() SetType {
	if f == 4 {
		return Addr4
	}
	return Addr6
}

func (f family) ranges() SetType {
	if f == 4 {
		return Range4
	}
	return Range6
}

func (f family) endpoint() SetType {
	if f == 4 {
		return Endpoint4
	}
	return Endpoint6
}
