package ruleset

import (
	"net/netip"

	"github.com/podfence/podfence/policy"
)

// What comes out of the tunnel between nodes is taken for what another node's guard
// has seen to. A pod that could put packets into it would send in any pod's name. So
// only nodes may, from an address of theirs to one of theirs, and by no destination NAT. No
// pod has such an address: its guard holds it to its own.

// tunnelChains are what is asked of a datagram to the tunnel's port: where it arrives, and
// where it is forwarded.
//
// At its end nothing is asked for state: a flow is only as good as its sender. On the way
// there a Service may lead to a node's port, of this node or another, and the service proxy
// give the packet this node's address on its way out. So may the masquerade for what
// leaves the cluster: it can come back, led by somebody beyond, as if from this node.
// Between pods the port is one like any other.
func tunnelChains(o Options) []*Chain {
	drop := func(comment string, matches ...Match) Rule {
		return Rule{Matches: matches, Counter: true, Verdict: Verdict{Action: Drop}, Comment: comment}
	}
	of := func(field Field, set string, not bool) Match {
		return Lookup{Fields: []Field{field}, Set: set, Not: not}
	}
	translated := drop("into the tunnel, by destination NAT", DNAT{})
	into, towards := &Chain{Name: chainIntoTunnel, Rules: []Rule{translated}}, &Chain{Name: chainTowardsTunnel, Rules: []Rule{translated}}
	const between = "into the tunnel, but not between nodes"
	for _, f := range families {
		into.Rules = append(into.Rules, drop(between, of(f.src(), nodesSet(f), true)), drop(between, of(f.dst(), nodesSet(f), true)))
		towards.Rules = append(towards.Rules, drop(between, of(f.dst(), nodesSet(f), false), of(f.src(), nodesSet(f), true)))
		if o.Masquerade {
			towards.Rules = append(towards.Rules, drop("into a tunnel, as if from this node",
				of(f.src(), podRangeSet(f), false), of(f.dst(), clusterSet(f), true)))
		}
	}
	input := &Chain{Name: chainTunnelInput, Hook: &Hook{Point: Input, Priority: -10}, Rules: []Rule{{
		Matches: []Match{tunnelPort}, Verdict: Verdict{Action: Jump, Chain: chainIntoTunnel},
	}}}
	return []*Chain{input, into, towards}
}

// towardsTunnel is for new flows that the node forwards.
var towardsTunnel = Rule{Matches: []Match{tunnelPort}, Verdict: Verdict{Action: Jump, Chain: chainTowardsTunnel}}

var tunnelPort = Lookup{Fields: []Field{L4Protocol, DstPort}, Set: setTunnel}

// tunnelSets are the port, and the nodes' addresses.
func tunnelSets(port uint16) []*Set {
	sets := []*Set{{
		Name: setTunnel, Type: Port, Elements: map[Element]struct{}{PortElement(policy.UDP, port): {}},
		Comment: "where other nodes' pods come in",
	}}
	for _, f := range families {
		sets = append(sets, &Set{Name: nodesSet(f), Type: f.addr(), Elements: map[Element]struct{}{}, Comment: "the nodes"})
	}
	return sets
}

func (u *update) nodes(addrs []netip.Addr) {
	for _, f := range families {
		elements := map[Element]struct{}{}
		for _, addr := range addrs {
			if f.has(addr) {
				elements[AddrElement(addr)] = struct{}{}
			}
		}
		u.content(u.Sets[nodesSet(f)], elements)
	}
}
