package ruleset

import (
	"net/netip"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// What comes out of the tunnel between nodes is trusted, because the guard of another node has
// checked it. A pod that could put packets into the tunnel could send in any pod's name. So only
// nodes may do that, from an address of a node to an address of a node, and not by destination
// NAT. No pod has such an address: the guard keeps it to its own.

// tunnelChains judge datagrams to the tunnel's port: where they arrive, and where they are
// forwarded.
//
// Where a datagram arrives, the flow's state is not looked at, because a flow is only as good as
// its sender. Where it is forwarded, a Service may lead to a node's port, of this node or of
// another, and the service proxy may give the packet this node's address on its way out. The
// masquerade for what leaves the cluster may do so as well: somebody outside could send the packet
// back, and it would seem to come from this node. Between pods the port is one like any other.
func tunnelChains(o Options) []*nft.Chain {
	drop := func(comment string, matches ...nft.Match) nft.Rule {
		return nft.Rule{Matches: matches, Counter: true, Verdict: nft.Verdict{Action: nft.Drop}, Origin: nft.Sentence(comment)}
	}
	of := func(field nft.Field, set string, not bool) nft.Match {
		return nft.Lookup{Fields: []nft.Field{field}, Set: set, Not: not}
	}
	translated := drop("into the tunnel, by destination NAT", nft.DNAT{})
	into, towards := &nft.Chain{Name: chainIntoTunnel, Rules: []nft.Rule{translated}}, &nft.Chain{Name: chainTowardsTunnel, Rules: []nft.Rule{translated}}
	const between = "into the tunnel, but not between nodes"
	for _, f := range families {
		into.Rules = append(into.Rules, drop(between, of(f.src(), nodesSet(f), true)), drop(between, of(f.dst(), nodesSet(f), true)))
		towards.Rules = append(towards.Rules, drop(between, of(f.dst(), nodesSet(f), false), of(f.src(), nodesSet(f), true)))
		if o.Masquerade {
			towards.Rules = append(towards.Rules, drop("into a tunnel, as if from this node",
				of(f.src(), podRangeSet(f), false), of(f.dst(), clusterSet(f), true)))
		}
	}
	input := &nft.Chain{Name: chainTunnelInput, Hook: &nft.Hook{Point: nft.Input, Priority: -11}, Rules: []nft.Rule{{
		Matches: []nft.Match{tunnelPort}, Verdict: nft.Verdict{Action: nft.Jump, Chain: chainIntoTunnel},
	}}}
	return []*nft.Chain{input, into, towards}
}

// towardsTunnel is for new flows that the node forwards.
var towardsTunnel = nft.Rule{Matches: []nft.Match{tunnelPort}, Verdict: nft.Verdict{Action: nft.Jump, Chain: chainTowardsTunnel}}

var tunnelPort = nft.Lookup{Fields: []nft.Field{nft.L4Protocol, nft.DstPort}, Set: setTunnel}

// tunnelSets are the set of the tunnel's port, and the sets of the nodes' addresses.
func tunnelSets(port uint16) []*nft.Set {
	sets := []*nft.Set{{
		Name: setTunnel, Type: nft.Of(nft.InetProto, nft.InetService), Elements: map[nft.Element]struct{}{nft.PortElement(policy.UDP, port): {}},
		Comment: "where other nodes' pods come in",
	}}
	for _, f := range families {
		sets = append(sets, &nft.Set{Name: nodesSet(f), Type: f.addr(), Elements: map[nft.Element]struct{}{}, Comment: "the nodes"})
	}
	return sets
}

func (u *update) nodes(addrs []netip.Addr) {
	for _, f := range families {
		elements := map[nft.Element]struct{}{}
		for _, addr := range addrs {
			if f.has(addr) {
				elements[nft.AddrElement(addr)] = struct{}{}
			}
		}
		u.content(u.Sets[nodesSet(f)], elements)
	}
}
