package ruleset

import (
	"net/netip"

	"go4.org/netipx"

	"github.com/podfence/podfence/ruleset/nft"
)

// Whose packet it is, its source says, and each pod's guard holds the pod to its own. What
// others on the nodes' links send no guard has seen: a packet with a pod's source is that
// pod's only if it comes from where the route to the pod leads. That is podfence's bridge
// for the node's own pods, the tunnel, or the link of the node that has the range. Where
// the range is another node's and the link is shared, whoever can send on it can send
// like that node.

// sourcesChain drops what comes from elsewhere. It asks for no state: a packet that is put
// into a pod's flow is as bad as one that begins one. Raw is before connection tracking,
// which would otherwise take up the flow, or have it go on.
//
// What comes by podfence's bridge has passed the guard: the kernel need not look for the
// route of what the node's pods send.
//
// The kernel's own answer (rp_filter) is for IPv4 alone, and for all sources: the node's
// other links may have reasons to be asymmetric.
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

// sourcesSets are the pods' ranges of all nodes, and the bridge.
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

// sources has the sets hold what is in the cluster and no node's own address: those may
// come by any link.
func (u *update) sources(cluster []netip.Prefix, nodes []netip.Addr) {
	var b netipx.IPSetBuilder
	for _, prefix := range cluster {
		b.AddPrefix(prefix)
	}
	for _, addr := range nodes {
		b.Remove(addr)
	}
	set, err := b.IPSet()
	if err != nil { // a prefix or address that is none, which the model has not let in
		return
	}
	for _, f := range families {
		u.content(u.Sets[sourcesSet(f)], f.prefixes(set.Prefixes()))
	}
}
