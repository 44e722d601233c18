package ruleset

import "github.com/podfence/podfence/ruleset/nft"

// A bridge sends what is for a hardware address out by the port where it has last seen that
// address, or by all ports if it has seen it at none. So a pod on another plugin's bridge that
// uses a neighbour's hardware address, or says by ARP that a neighbour's address is its own, gets
// what is for that neighbour. chainLinksForward looks at what goes from one port to another. What
// the node routes to a pod, or sends itself, comes from the bridge itself, by the hook output.

const chainLinksOutput = "links-output"

// outputChain drops what the node sends or routes out by a pod's port if it is for another pod. At
// an isolated pod's port it drops all that is not for that pod. It leaves out what is for a group
// or a link-local address: that is from the node itself, which always reaches its pods. It also
// leaves out ports of which nobody can tell whose they are: such a port may be no pod's, and lead
// anywhere.
func outputChain() *nft.Chain {
	of := func(field nft.Field, set string) nft.Lookup { return nft.Lookup{Fields: []nft.Field{field}, Set: set} }
	not := func(field nft.Field, set string) nft.Lookup {
		return nft.Lookup{Fields: []nft.Field{field}, Set: set, Not: true}
	}
	var rules []nft.Rule
	for _, f := range families {
		rules = append(rules,
			nft.Rule{Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{nft.OutPort, f.dst()}, Set: linkAddrsSet(f)}}, Verdict: nft.Verdict{Action: nft.Accept}},
			nft.Rule{Matches: []nft.Match{of(nft.OutPort, setSomewhereLinks), of(f.dst(), somewhereSet(f))}, Verdict: nft.Verdict{Action: nft.Accept}},
			dropped("another pod's", of(f.dst(), podAddrsSet(f)), of(nft.OutPort, setPodLinks)),
		)
	}
	const notOwn = "not to the pod's own address"
	return &nft.Chain{Name: chainLinksOutput, Hook: &nft.Hook{Point: nft.Output, Priority: -9}, Rules: append(rules,
		dropped(notOwn, of(nft.OutPort, setIngressLinks), not(nft.OutPort, setSomewhereLinks), not(nft.DstAddr4, setGroups4)),
		dropped(notOwn, of(nft.OutPort, setIngressLinks), not(nft.OutPort, setSomewhereLinks), not(nft.DstAddr6, setGroups6), not(nft.DstAddr6, setLinkLocal6)),
	)}
}
