package ruleset

import (
	"fmt"
	"net/netip"

	"github.com/podfence/podfence/ruleset/nft"
)

// A frame that is sent to a group, or to all, though the IP packet in it is for one host, must
// not reach the node. Where br_netfilter is on, connection tracking takes up the packet's
// flow as soon as the bridge hands the node its copy, before any hook of family inet has
// judged it (br_nf_local_in in net/bridge/br_netfilter_hooks.c, since Linux 6.8, and in
// earlier kernels to which that was ported back). The answer to it would be established, and
// so would all that follows. No host sends such frames (RFC 1122 section 3.3.6), but a pod
// can.

// podAddrsSet holds the addresses of this node's containers.
func podAddrsSet(f family) string { return fmt.Sprintf("pod-addresses-%d", f) }

// groupSets are the sets by which such frames are known.
func groupSets() []*nft.Set {
	return append(podAddrsSets(),
		ranges(setGroups4, nft.RangesOf(nft.IPv4Addr), "multicast, and all", "224.0.0.0/4", "255.255.255.255/32"),
		ranges(setGroups6, nft.RangesOf(nft.IPv6Addr), "multicast", "ff00::/8"),
	)
}

func podAddrsSets() (sets []*nft.Set) {
	for _, f := range families {
		sets = append(sets, &nft.Set{Name: podAddrsSet(f), Type: f.addr(), Elements: map[nft.Element]struct{}{}, Comment: "this node's containers"})
	}
	return sets
}

const (
	setGroups4  = "groups-4"
	setGroups6  = "groups-6"
	chainGroups = "to-groups"
)

// toGroups are the rules of the bridge's prerouting that lead to groupsChain.
func toGroups() []nft.Rule {
	verdict := nft.Verdict{Action: nft.Jump, Chain: chainGroups}
	return []nft.Rule{{Matches: []nft.Match{nft.Multicast}, Verdict: verdict}, {Matches: []nft.Match{nft.Broadcast}, Verdict: verdict}}
}

// groupsChain drops such frames if they are for a pod of this node, or from one.
func groupsChain() *nft.Chain {
	chain := &nft.Chain{Name: chainGroups}
	for _, f := range families {
		groups := map[family]string{4: setGroups4, 6: setGroups6}[f]
		for _, matches := range [][]nft.Match{
			{nft.Lookup{Fields: []nft.Field{f.dst()}, Set: podAddrsSet(f)}},
			{nft.Lookup{Fields: []nft.Field{f.src()}, Set: podAddrsSet(f)}, nft.Lookup{Fields: []nft.Field{f.dst()}, Set: groups, Not: true}},
		} {
			chain.Rules = append(chain.Rules, nft.Rule{
				Matches: matches, Counter: true, Verdict: nft.Verdict{Action: nft.Drop}, Origin: nft.Sentence("for one, but sent to all"),
			})
		}
	}
	return chain
}

// podAddrElements adds addresses to the elements of the sets podAddrsSet.
func podAddrElements(want map[string]map[nft.Element]struct{}, addrs []netip.Addr) {
	for _, f := range families {
		if want[podAddrsSet(f)] == nil {
			want[podAddrsSet(f)] = map[nft.Element]struct{}{}
		}
	}
	for _, addr := range addrs {
		want[podAddrsSet(familyOf(addr))][nft.AddrElement(addr)] = struct{}{}
	}
}
