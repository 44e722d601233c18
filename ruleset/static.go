package ruleset

import (
	"fmt"
	"slices"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// staticChains are the chains that do not depend on the cluster.
func staticChains(o Options) []*nft.Chain {
	chains := append(baseChains(o), discoveryChain(o), listenersChain(), orphansChain(), errorsSentChain(), errorsReceivedChain())
	if o.Links {
		chains = slices.Concat(chains, linkAddrsChains(), fragmentChains(o.Fragments), []*nft.Chain{podLinksChain(), othersNamesChain(nft.Inet)})
	}
	if o.MaxConnections != 0 {
		chains = append(chains, connectionsChain(o.MaxConnections))
	}
	if o.RevokedMark != 0 {
		chains = append(chains, beginningsChain())
	}
	return chains
}

// baseChains are where packets enter. Each direction has a base chain of its own, because an
// accept ends only the base chain that it is in. So no marks are needed to combine "egress
// allows" and "ingress allows".
//
// They run just before the priority filter, where most firewalls are, so that what those drop
// stays dropped, and after destination NAT (-100), so that a packet to a Service already has
// its pod's address and port.
func baseChains(o Options) []*nft.Chain {
	var tunnel []nft.Rule
	if o.TunnelPort != 0 {
		tunnel = []nft.Rule{towardsTunnel}
	}
	var from, to []nft.Rule
	if o.Links {
		from, to = []nft.Rule{fromLink}, []nft.Rule{toLink}
	}
	chains := []*nft.Chain{
		{Name: chainEgressForward, Hook: &nft.Hook{Point: nft.Forward, Priority: -10}, Rules: slices.Concat(from, baseRules(policy.Egress, o, append(tunnel, loopbackRules()...)...))},
		{Name: chainIngressForward, Hook: &nft.Hook{Point: nft.Forward, Priority: -9}, Rules: slices.Concat(to, baseRules(policy.Ingress, o))},
	}
	// The node's packets to itself may have an address of the pod range that no pod has: the
	// bridge's.
	input := []nft.Rule{{Matches: []nft.Match{nft.Loopback{}}, Verdict: nft.Verdict{Action: nft.Accept}}}
	input = append(input, from...)
	if o.AllowToNode {
		input = slices.Concat(input, knownFlows(policy.Egress, o), loopbackRules(), []nft.Rule{askNode, discovery}, closedRules(policy.Egress, true))
	} else {
		input = append(input, baseRules(policy.Egress, o, append(loopbackRules(), askNode)...)...)
	}
	chains = append(chains, &nft.Chain{Name: chainEgressInput, Hook: &nft.Hook{Point: nft.Input, Priority: -10}, Rules: input})
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

// beginningsChain is where the map of a direction leads packets of a pod that is isolated only for
// the other direction.
func beginningsChain() *nft.Chain {
	rules := append([]nft.Rule{{Matches: []nft.Match{nft.Invalid}, Counter: true, Verdict: nft.Verdict{Action: nft.Drop}}}, beginnings()...)
	return &nft.Chain{Name: chainBeginnings, Rules: append(rules, nft.Rule{Verdict: nft.Verdict{Action: nft.Accept}})}
}

// beginnings drop packets that are new to connection tracking but begin no connection. They are
// for a direction whose opposite the pod is isolated for. There, such a packet may be the answer
// to a connection that the pod's policies deny: a revoked flow keeps its mark only for as long as
// connection tracking knows it. When the entry is deleted, or runs out, and the pod then goes on
// talking, the flow would begin again, in reverse.
//
// Packets that somebody has exempted from connection tracking are not new to it. The rules judge
// each of them, in both directions.
//
// The price: a connection that connection tracking has lost goes on only if its next
// packet is judged, and allowed, by the one direction that the pod is isolated for.
func beginnings() (rules []nft.Rule) {
	for _, protocol := range []policy.Protocol{policy.TCP, policy.SCTP} {
		rules = append(rules, nft.Rule{
			Matches: []nft.Match{nft.New, nft.Midstream(protocol)}, Counter: true, Verdict: nft.Verdict{Action: nft.Drop}, Origin: nft.Sentence("begins no connection"),
		})
	}
	return rules
}

// baseRules are the rules of a base chain. They let pass what needs no judging, apply the rules
// that must come first, lead to the pod's own chain, and then drop what is closed.
func baseRules(d policy.Direction, o Options, first ...nft.Rule) []nft.Rule {
	return slices.Concat(knownFlows(d, o), first, toPods(d), closedRules(d, false))
}

// toPods lead to the pods' own chains. Neighbour and listener discovery has been let pass before.
func toPods(d policy.Direction) []nft.Rule {
	addr4, addr6 := addrFields(d)
	return []nft.Rule{
		discovery,
		{Verdict: nft.Verdict{Action: nft.Dispatch, Field: addr4, Map: podMap(d, 4)}},
		{Verdict: nft.Verdict{Action: nft.Dispatch, Field: addr6, Map: podMap(d, 6)}},
	}
}

// addrFields are the fields with the subject's address.
func addrFields(d policy.Direction) (addr4, addr6 nft.Field) {
	if d == policy.Ingress {
		return nft.DstAddr4, nft.DstAddr6
	}
	return nft.SrcAddr4, nft.SrcAddr6
}

// knownFlows are the rules for packets of a flow that was judged before. ICMP errors are looked at
// before what is related passes. A packet that is left after these rules begins a connection,
// which may be one too many.
func knownFlows(d policy.Direction, o Options) (rules []nft.Rule) {
	if o.RevokedMark != 0 {
		rules = append(rules, nft.Rule{Matches: []nft.Match{nft.Mark(o.RevokedMark)}, Counter: true, Verdict: nft.Verdict{Action: nft.Drop}, Origin: nft.Sentence("a policy has changed: no longer allowed")})
	}
	rules = append(rules, nft.Rule{Matches: []nft.Match{nft.Established}, Verdict: nft.Verdict{Action: nft.Accept}})
	rules = append(rules, icmpErrors(d)...)
	rules = append(rules, nft.Rule{Matches: []nft.Match{nft.Related}, Verdict: nft.Verdict{Action: nft.Accept}})
	if d == policy.Egress && o.MaxConnections != 0 {
		rules = append(rules, begun)
	}
	return rules
}

// closedRules drop packets of a container whose pod is not known, and of an address in the pod
// ranges that no known pod has (closed until known). Where pods reach their node whatever the
// policies say, no map has led the packets of known pods elsewhere before: sort says that these
// rules have to leave them out.
func closedRules(d policy.Direction, sort bool) (rules []nft.Rule) {
	addr4, addr6 := addrFields(d)
	fields := map[family]nft.Field{4: addr4, 6: addr6}
	drop := func(comment string, matches ...nft.Match) {
		rules = append(rules, nft.Rule{Matches: matches, Counter: true, Verdict: nft.Verdict{Action: nft.Drop}, Origin: nft.Sentence(comment)})
	}
	for _, f := range families {
		drop("a container whose pod is not known", nft.Lookup{Fields: []nft.Field{fields[f]}, Set: orphansSet(f)})
	}
	for _, f := range families {
		matches := []nft.Match{nft.Lookup{Fields: []nft.Field{fields[f]}, Set: podRangeSet(f)}}
		if sort {
			matches = append(matches, nft.Lookup{Fields: []nft.Field{fields[f], fields[f]}, Set: samePodSet(f), Not: true})
		}
		drop("no pod known by this address", matches...)
	}
	return rules
}

// orphansChain drops what the node itself sends to a container whose pod is not known. It does not
// look at the flow's state, so that the node's side of an existing flow ends as well.
func orphansChain() *nft.Chain {
	chain := &nft.Chain{Name: chainOrphansOutput, Hook: &nft.Hook{Point: nft.Output, Priority: -10}}
	for _, f := range families {
		chain.Rules = append(chain.Rules, nft.Rule{
			Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{f.dst()}, Set: orphansSet(f)}},
			Counter: true, Verdict: nft.Verdict{Action: nft.Drop}, Origin: nft.Sentence("a container whose pod is not known"),
		})
	}
	return chain
}

// baseSets are the sets and maps that always exist, without any pod in them.
func baseSets(o Options) []*nft.Set {
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
			sets = append(sets, podMapOf(d, f))
		}
		sets = append(sets, &nft.Set{
			Name: podRangeSet(f), Type: f.ranges(), Elements: map[nft.Element]struct{}{},
			Comment: "this node's pod ranges: closed but for known pods",
		}, doubtfulSetOf(f), &nft.Set{
			Name: orphansSet(f), Type: f.addr(), Elements: map[nft.Element]struct{}{},
			Comment: "this node's containers whose pod is not known: closed",
		})
		if o.Masquerade {
			sets = append(sets, &nft.Set{
				Name: clusterSet(f), Type: f.ranges(), Elements: map[nft.Element]struct{}{},
				Comment: "what pods reach with their own address",
			})
		}
	}
	return sets
}

// podMapOf is the map from the pods' addresses to their chains, without any pod in it.
func podMapOf(d policy.Direction, f family) *nft.Set {
	return &nft.Set{
		Name: podMap(d, f), Type: f.addr(), Verdicts: map[nft.Element]nft.Verdict{},
		Comment: fmt.Sprintf("this node's pods: where their %s goes on", d),
	}
}

// doubtfulSetOf is the set of addresses in doubt, without any.
func doubtfulSetOf(f family) *nft.Set {
	return &nft.Set{
		Name: doubtfulSet(f), Type: f.addr(), Elements: map[nft.Element]struct{}{},
		Comment: "pods that cannot be told to be denied: denied by all who ask",
	}
}

func messageTypes(types []uint8) map[nft.Element]struct{} {
	elements := map[nft.Element]struct{}{}
	for _, t := range types {
		elements[nft.Element{Protocol: t}] = struct{}{}
	}
	return elements
}
