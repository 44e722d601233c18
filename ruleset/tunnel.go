package ruleset

import (
	"net/netip"

	"github.com/podfence/podfence/policy"
)

// What comes out of the tunnel between nodes is taken for what another node's guard
// has seen to. A pod that could put packets into it would send in any pod's name. So
// only nodes may, from an address of theirs to one of theirs. No pod has such an
// address: its guard holds it to its own.

// tunnelChain is on the node that takes packets out. It asks for no state: a flow is
// only as good as its sender.
func tunnelChain() *Chain {
	chain := &Chain{Name: chainTunnelInput, Hook: &Hook{Point: Input, Priority: -10}}
	for _, f := range families {
		for _, end := range []Field{f.src(), f.dst()} {
			chain.Rules = append(chain.Rules, Rule{
				Matches: []Match{intoTunnel, Lookup{Fields: []Field{end}, Set: nodesSet(f), Not: true}},
				Counter: true, Verdict: Verdict{Action: Drop}, Comment: "into the tunnel, but not between nodes",
			})
		}
	}
	return chain
}

// tunnelRules are on the node that forwards them there. A Service may lead to a node's
// port, and the service proxy give the packet this node's address on its way out.
func tunnelRules() (rules []Rule) {
	for _, f := range families {
		rules = append(rules, Rule{
			Matches: []Match{
				intoTunnel,
				Lookup{Fields: []Field{f.dst()}, Set: nodesSet(f)},
				Lookup{Fields: []Field{f.src()}, Set: nodesSet(f), Not: true},
			},
			Counter: true, Verdict: Verdict{Action: Drop}, Comment: "into the tunnel, but not between nodes",
		})
	}
	return rules
}

var intoTunnel = Lookup{Fields: []Field{L4Protocol, DstPort}, Set: setTunnel}

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
