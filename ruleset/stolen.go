package ruleset

// A bridge sends what is for a hardware address by the port where it has last seen it, and
// where it has seen none, by all ports. So a pod on another plugin's bridge that uses a
// neighbour's hardware address, or says by ARP that a neighbour's address is its own, gets
// what is for that neighbour. Between two ports chainLinksForward looks at it. What the node
// routes to a pod, or sends, comes from the bridge itself, by the hook output.

const chainLinksOutput = "links-output"

// outputChain drops what the node sends or routes by a pod's port and is another pod's, and
// by an isolated pod's port all that is not its own. What is for a group, or link-local, is
// from the node itself, which always reaches its pods. A port of which nobody can tell whose
// it is may be no pod's, and lead anywhere.
func outputChain() *Chain {
	of := func(field Field, set string) Lookup { return Lookup{Fields: []Field{field}, Set: set} }
	not := func(field Field, set string) Lookup { return Lookup{Fields: []Field{field}, Set: set, Not: true} }
	var rules []Rule
	for _, f := range families {
		rules = append(rules,
			Rule{Matches: []Match{Lookup{Fields: []Field{OutPort, f.dst()}, Set: linkAddrsSet(f)}}, Verdict: Verdict{Action: Accept}},
			Rule{Matches: []Match{of(OutPort, setSomewhereLinks), of(f.dst(), somewhereSet(f))}, Verdict: Verdict{Action: Accept}},
			dropped("another pod's", of(f.dst(), podAddrsSet(f)), of(OutPort, setPodLinks)),
		)
	}
	const notOwn = "not to the pod's own address"
	return &Chain{Name: chainLinksOutput, Hook: &Hook{Point: Output, Priority: -10}, Rules: append(rules,
		dropped(notOwn, of(OutPort, setIngressLinks), not(OutPort, setSomewhereLinks), not(DstAddr4, setGroups4)),
		dropped(notOwn, of(OutPort, setIngressLinks), not(OutPort, setSomewhereLinks), not(DstAddr6, setGroups6), not(DstAddr6, setLinkLocal6)),
	)}
}
