package ruleset

import (
	"net/netip"
	"slices"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// notRouted are destinations that no router forwards to, so that another sender's address would
// not help. IPv4's link-local range is not among them, because clouds serve their metadata to
// the node at an address of it.
var notRouted = []netip.Prefix{
	netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// masqueradeChain gives the node's address to what pods send to the outside of the cluster,
// because nobody there knows the way back to a pod's address.
//
// It comes after destination NAT and policy. Both ends of a packet that a Service sends back to
// the pod that it came from are in the cluster, so it is left to kube-proxy to give such a packet
// the address that it needs. If a packet was given an address before, at the same priority or an
// earlier one, the kernel does not come here (it asks nf_nat_initialized, in nf_nat_inet_fn,
// net/netfilter/nf_nat_core.c).
//
// Source ports are chosen at random, as kube-proxy does. Otherwise two flows that begin together,
// such as a resolver's A and AAAA, would now and then be given the same port, and the packet that
// comes second would be lost.
func masqueradeChain() *nft.Chain {
	chain := &nft.Chain{Name: chainMasquerade, Hook: &nft.Hook{NAT: true, Point: nft.Postrouting, Base: nft.SrcNAT}}
	for _, f := range families {
		chain.Rules = append(chain.Rules, nft.Rule{
			Matches: []nft.Match{
				nft.Lookup{Fields: []nft.Field{f.src()}, Set: podRangeSet(f)},
				nft.Lookup{Fields: []nft.Field{f.dst()}, Set: clusterSet(f), Not: true},
			},
			Counter: true, Verdict: nft.Verdict{Action: nft.Masquerade},
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

// prefixes are the elements for the prefixes of the family.
func (f family) prefixes(prefixes []netip.Prefix) map[nft.Element]struct{} {
	elements := map[nft.Element]struct{}{}
	for _, prefix := range prefixes {
		if f.has(prefix.Addr()) {
			elements[nft.PrefixElement(prefix)] = struct{}{}
		}
	}
	return elements
}
