package ruleset

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/podfence/podfence/policy"
)

// staticChains are those that do not depend on the cluster.
func staticChains(o Options) []*Chain {
	chains := append(baseChains(o), discoveryChain(o), listenersChain(), orphansChain(), errorsSentChain(), errorsReceivedChain())
	if o.Links {
		chains = slices.Concat(chains, linkAddrsChains(), fragmentChains(o.Fragments), []*Chain{podLinksChain(), othersNamesChain(Inet)})
	}
	if o.MaxConnections != 0 {
		chains = append(chains, connectionsChain(o.MaxConnections))
	}
	if o.RevokedMark != 0 {
		chains = append(chains, beginningsChain())
	}
	return chains
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
		tunnel = []Rule{towardsTunnel}
	}
	var from, to []Rule
	if o.Links {
		from, to = []Rule{fromLink}, []Rule{toLink}
	}
	chains := []*Chain{
		{Name: chainEgressForward, Hook: &Hook{Point: Forward, Priority: -10}, Rules: slices.Concat(from, baseRules(policy.Egress, o, append(tunnel, loopbackRules()...)...))},
		{Name: chainIngressForward, Hook: &Hook{Point: Forward, Priority: -9}, Rules: slices.Concat(to, baseRules(policy.Ingress, o))},
	}
	// The node's own packets to itself may have an address of the pod range
	// (the bridge's), which no pod has.
	input := []Rule{{Matches: []Match{Loopback{}}, Verdict: Verdict{Action: Accept}}}
	input = append(input, from...)
	if o.AllowToNode {
		input = slices.Concat(input, knownFlows(policy.Egress, o), loopbackRules(), []Rule{askNode, discovery}, closedRules(policy.Egress, true))
	} else {
		input = append(input, baseRules(policy.Egress, o, append(loopbackRules(), askNode)...)...)
	}
	chains = append(chains, &Chain{Name: chainEgressInput, Hook: &Hook{Point: Input, Priority: -10}, Rules: input})
	if o.Guard {
		chains = append(chains, portsChain())
	}
	if o.Links {
		chains = append(chains, fromLinksChain())
	}
	if o.Masquerade {
		chains = append(chains, masqueradeChain())
	}
	if o.TunnelPort != 0 {
		chains = append(chains, tunnelChains(o)...)
	}
	if o.SourceCheck {
		chains = append(chains, sourcesChain())
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
// What somebody has exempted from connection tracking is not new to it: the rules judge
// each such packet, both ways.
//
// The price: a connection that connection tracking has lost goes on only if its next
// packet is judged, and allowed, by the one direction that the pod is isolated for.
func beginnings() (rules []Rule) {
	for _, protocol := range []policy.Protocol{policy.TCP, policy.SCTP} {
		rules = append(rules, Rule{
			Matches: []Match{New, Midstream(protocol)}, Counter: true, Verdict: Verdict{Action: Drop}, Comment: "begins no connection",
		})
	}
	return rules
}

// baseRules are the rules of a base chain: what needs no judging, what has to be
// looked at first, then the pod's own chain, then nothing for what is closed.
func baseRules(d policy.Direction, o Options, first ...Rule) []Rule {
	addr4, addr6 := addrFields(d)
	rules := append(knownFlows(d, o), first...)
	rules = append(rules,
		discovery,
		Rule{Verdict: Verdict{Action: Dispatch, Field: addr4, Map: podMap(d, 4)}},
		Rule{Verdict: Verdict{Action: Dispatch, Field: addr6, Map: podMap(d, 6)}},
	)
	return append(rules, closedRules(d, false)...)
}

// addrFields are the fields with the subject's address.
func addrFields(d policy.Direction) (addr4, addr6 Field) {
	if d == policy.Ingress {
		return DstAddr4, DstAddr6
	}
	return SrcAddr4, SrcAddr6
}

// knownFlows are the rules for what belongs to a flow that was judged before. ICMP errors
// are looked at before what is related passes. What is left begins a connection, which may be
// one too many.
func knownFlows(d policy.Direction, o Options) (rules []Rule) {
	if o.RevokedMark != 0 {
		rules = append(rules, Rule{Matches: []Match{Mark(o.RevokedMark)}, Counter: true, Verdict: Verdict{Action: Drop}, Comment: "a policy has changed: no longer allowed"})
	}
	rules = append(rules, Rule{Matches: []Match{Established}, Verdict: Verdict{Action: Accept}})
	rules = append(rules, icmpErrors(d)...)
	rules = append(rules, Rule{Matches: []Match{Related}, Verdict: Verdict{Action: Accept}})
	if d == policy.Egress && o.MaxConnections != 0 {
		rules = append(rules, begun)
	}
	return rules
}

// closedRules drop what is of a container whose pod is not known, or of an address of the
// pod ranges that no known pod has (closed until known). Where pods reach their node
// whatever the policies say, no map has sorted out the known ones: sort says to do so.
func closedRules(d policy.Direction, sort bool) (rules []Rule) {
	addr4, addr6 := addrFields(d)
	fields := map[family]Field{4: addr4, 6: addr6}
	drop := func(comment string, matches ...Match) {
		rules = append(rules, Rule{Matches: matches, Counter: true, Verdict: Verdict{Action: Drop}, Comment: comment})
	}
	for _, f := range families {
		drop("a container whose pod is not known", Lookup{Fields: []Field{fields[f]}, Set: orphansSet(f)})
	}
	for _, f := range families {
		matches := []Match{Lookup{Fields: []Field{fields[f]}, Set: podRangeSet(f)}}
		if sort {
			matches = append(matches, Lookup{Fields: []Field{fields[f], fields[f]}, Set: samePodSet(f), Not: true})
		}
		drop("no pod known by this address", matches...)
	}
	return rules
}

// orphansChain is for what the node itself sends to a container whose pod is not known.
// It asks for no state: the node's side of a flow ends as well.
func orphansChain() *Chain {
	chain := &Chain{Name: chainOrphansOutput, Hook: &Hook{Point: Output, Priority: -10}}
	for _, f := range families {
		chain.Rules = append(chain.Rules, Rule{
			Matches: []Match{Lookup{Fields: []Field{f.dst()}, Set: orphansSet(f)}},
			Counter: true, Verdict: Verdict{Action: Drop}, Comment: "a container whose pod is not known",
		})
	}
	return chain
}

// baseSets are the sets and maps that are always there, empty of pods.
func baseSets(o Options) []*Set {
	sets := slices.Concat(discoverySets(), errorSets(), loopbackSets())
	if o.Links {
		sets = slices.Concat(sets, linkSets(), podAddrsSets())
	}
	if o.MaxConnections != 0 {
		sets = append(sets, connectionsSets()...)
	}
	if o.TunnelPort != 0 {
		sets = append(sets, tunnelSets(o.TunnelPort)...)
	}
	if o.SourceCheck {
		sets = append(sets, sourcesSets(o.Bridge)...)
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
		}, &Set{
			Name: orphansSet(f), Type: f.addr(), Elements: map[Element]struct{}{},
			Comment: "this node's containers whose pod is not known: closed",
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
	if o.RevokedMark != 0 && s.Isolated[d.Opposite()] {
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
// sets that are named by their content. Very many rules are in its sections.
func policyChainOf(d policy.Direction, p *policy.Policy) (*Chain, []*Set) {
	name := policyChain(d, p.Key)
	if len(p.Sections[d]) == 0 {
		return chainOf(name, d, p.Rules[d])
	}
	chain := &Chain{Name: name}
	for _, section := range p.Sections[d] {
		to := sectionChain(policy.SectionKey{Policy: p.Key, Direction: d, Name: section.Name})
		chain.Rules = append(chain.Rules, Rule{Verdict: Verdict{Action: Jump, Chain: to}})
	}
	return chain, nil
}

// chainOf is a chain of rules, with the sets that are named by their content.
func chainOf(name string, d policy.Direction, rules []policy.Rule) (*Chain, []*Set) {
	chain := &Chain{Name: name}
	var sets []*Set
	for _, rule := range rules {
		made, used := rulesOf(d, rule)
		chain.Rules = append(chain.Rules, made...)
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
	if len(r.Ports) > 0 {
		set := portsSetOf(r.Ports)
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
	set := &Set{Type: f.ranges()}
	set.setElements(elements)
	set.Name = blockSet(f, set.ordered)
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

// portsSetOf is the set of a rule's ports. Single ports are looked up by hash, which costs
// a new connection half of what ranges do, and to load next to nothing.
func portsSetOf(ports []policy.PortRange) *Set {
	set, elements := &Set{Type: PortRange}, map[Element]struct{}{}
	if policy.SinglePorts(ports) {
		set.Type = Port
	}
	for _, r := range ports {
		if set.Type == Port {
			elements[PortElement(r.Protocol, r.First)] = struct{}{}
		} else {
			elements[PortRangeElement(r)] = struct{}{}
		}
	}
	set.setElements(elements)
	set.Name = portsSet(sortedElements(elements))
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
