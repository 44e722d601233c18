package ruleset

import (
	"net/netip"

	"go4.org/netipx"

	"github.com/podfence/podfence/ruleset/nft"
)

// A packet's source says whose packet it is, and the guard keeps each pod to its own source. But
// no guard has seen what others on the nodes' links send. A packet with a pod's source is that
// pod's only if it comes from where the route to the pod leads: from podfence's bridge for the
// node's own pods, from the tunnel, or from the link to the node that has the range. Where the
// range is another node's and the link is shared, anyone who can send on the link can send as
// that node does.

// sourcesChain drops packets with a pod's source that come from elsewhere. It does not look at the
// flow's state, because a packet that is put into a pod's flow is as bad as one that begins a
// flow. The priority raw is before connection tracking, which would otherwise take up the flow, or
// continue it.
//
// What comes by podfence's bridge has passed the guard, so that the kernel need not look up
// routes for what the node's pods send.
//
// The kernel's own check (rp_filter) is only for IPv4, and is for all sources. There may be
// reasons why routes of the node's other links are asymmetric.
func sourcesChain() *nft.Chain {
	chain := &nft.Chain{Name: chainSources, Hook: &nft.Hook{Point: nft.Prerouting, Base: nft.Raw}, Rules: []nft.Rule{{
		Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{nft.InPort}, Set: setGuarded}}, Verdict: nft.Verdict{Action: nft.Accept},
	}}}
	for _, f := range families {
		chain.Rules = append(chain.Rules, nft.Rule{
			Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{f.src()}, Set: sourcesSet(f)}, nft.Elsewhere{}},
			Counter: true, Verdict: nft.Verdict{Action: nft.Drop}, Origin: nft.Sentence("a pod's source, from where its route does not lead"),
		})
	}
	return chain
}

// sourcesSets are the sets of the pod ranges of all nodes, and of the bridge.
func sourcesSets(bridge string) []*nft.Set {
	guarded := &nft.Set{Name: setGuarded, Type: nft.Of(nft.IfName), Elements: map[nft.Element]struct{}{}, Comment: "by which pods send with their own addresses only"}
	if e, ok := nft.LinkElement(nft.Element{}, bridge); ok && bridge != "" {
		guarded.Elements[e] = struct{}{}
	}
	sets := []*nft.Set{guarded}
	for _, f := range families {
		sets = append(sets, &nft.Set{
			Name: sourcesSet(f), Type: f.ranges(), Elements: map[nft.Element]struct{}{}, Comment: "the pod ranges of all nodes",
		})
	}
	return sets
}

// sources makes the sets hold the addresses in the cluster that are no node's own. A node's own
// addresses may come by any link.
func (u *update) sources(cluster []netip.Prefix, nodes []netip.Addr) {
	var b netipx.IPSetBuilder
	for _, prefix := range cluster {
		b.AddPrefix(prefix)
	}
	for _, addr := range nodes {
		b.Remove(addr)
	}
	set, err := b.IPSet()
	if err != nil { // a prefix or address is not valid, but the model lets in no such
		return
	}
	for _, f := range families {
		u.content(u.Sets[sourcesSet(f)], f.prefixes(set.Prefixes()))
	}
}
