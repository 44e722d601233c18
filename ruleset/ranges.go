package ruleset

import (
	"net/netip"
	"slices"

	"github.com/podfence/podfence/policy"
)

// notRouted are destinations that no router takes further, so that no other
// sender's address could help. IPv4's link-local range is not among them: clouds
// serve their metadata at an address of it, to the node.
var notRouted = []netip.Prefix{
	netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// masqueradeChain gives what pods send to outside the cluster the node's
// address: nobody there knows the way back to a pod's.
//
// It comes after destination NAT and policy. Both ends of a packet that a
// Service sends back to the pod it came from are in the cluster: the address
// that this needs is kube-proxy's to give. With one that has been given before,
// at the same priority or an earlier one, the kernel does not come here (it asks
// nf_nat_initialized, in nf_nat_inet_fn, net/netfilter/nf_nat_core.c).
//
// Source ports are chosen at random, as kube-proxy has them: two flows that
// begin together, such as a resolver's A and AAAA, would otherwise be given the
// same one now and then, and the packet that comes second be lost.
func masqueradeChain() *Chain {
	chain := &Chain{Name: chainMasquerade, Hook: &Hook{NAT: true, Point: Postrouting, Base: SrcNAT}}
	for _, f := range families {
		chain.Rules = append(chain.Rules, Rule{
			Matches: []Match{
				Lookup{Fields: []Field{f.src()}, Set: podRangeSet(f)},
				Lookup{Fields: []Field{f.dst()}, Set: clusterSet(f), Not: true},
			},
			Counter: true, Verdict: Verdict{Action: Masquerade},
		})
	}
	return chain
}

func (u *update) podRanges(prefixes []netip.Prefix) {
	for _, f := range families {
		u.content(u.Sets[podRangeSet(f)], f.prefixes(prefixes))
	}
}

func (u *update) cluster(prefixes []netip.Prefix) {
	prefixes = policy.Union(slices.Concat(prefixes, notRouted))
	for _, f := range families {
		u.content(u.Sets[clusterSet(f)], f.prefixes(prefixes))
	}
}

// prefixes are the elements for those of the family.
func (f family) prefixes(prefixes []netip.Prefix) map[Element]struct{} {
	elements := map[Element]struct{}{}
	for _, prefix := range prefixes {
		if f.has(prefix.Addr()) {
			elements[PrefixElement(prefix)] = struct{}{}
		}
	}
	return elements
}

// content makes these the elements of a set.
func (u *update) content(set *Set, want map[Element]struct{}) {
	var gone, added []Element
	for e := range set.Elements {
		if _, stays := want[e]; !stays {
			gone = append(gone, e)
		}
	}
	for e := range want {
		if _, there := set.Elements[e]; !there {
			added = append(added, e)
		}
	}
	// Out before in: two ranges that overlap cannot be in the set together.
	if len(gone) > 0 {
		u.newSets = append(u.newSets, DeleteElements{Set: set.Name, Type: set.Type, Elements: sorted(gone)})
	}
	if len(added) > 0 {
		u.newSets = append(u.newSets, AddElements{Set: set.Name, Type: set.Type, Elements: sorted(added)})
	}
	set.setElements(want)
}
