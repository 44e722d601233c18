package ruleset

import (
	"fmt"
	"net/netip"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// A bridge that filters VLANs changes a frame's tag between its hooks. Behind prerouting it takes a frame without a
// tag, or with the tag 0, for one of the port's own VLAN; before forward it takes the tag off if the frame's VLAN is
// untagged at the port that it goes out by, and else puts one on (__allowed_ingress and br_handle_vlan in
// net/bridge/br_vlan.c). But br_netfilter shows the table of family inet only frames without a tag, and at forward
// only those that it has shown it at prerouting (net.bridge.bridge-nf-filter-vlan-tagged is off unless somebody has
// turned it on). A frame with a tag at one of the two hooks, and none at the other, looks like any other where it
// has none, and no policy judges it. So what has a tag at either hook, and is IP from or to an isolated pod, is
// dropped.
//
// To a rule the type of a frame with a tag is the tag's (nft_payload_copy_vlan in net/netfilter/nft_payload.c), and
// it can read the packet behind one tag, not behind two. A bridge takes off no more than one, so that the frame
// still has the other where it would go out by an isolated pod's port, and is dropped there.
//
// A frame with a tag that is for the node itself goes on: the node routes what is in it, and the table of family
// inet judges that. If the bridge is not in the frame's VLAN, the frame does not come to the node, but goes out by
// all of the VLAN's ports. So nothing goes out by an isolated pod's port to an address of the node's own for which
// such frames have come.

const (
	chainTagged = "tagged"
	setTagged   = "tagged-macs"
)

// closedAddrsSet holds the addresses of pods that are isolated for a direction, or not known.
func closedAddrsSet(d policy.Direction, f family) string { return fmt.Sprintf("%s-addresses-%d", d, f) }

func closedAddrElements(want map[string]map[nft.Element]struct{}, closed [2][]netip.Addr) {
	for _, d := range policy.Directions {
		for _, f := range families {
			want[closedAddrsSet(d, f)] = map[nft.Element]struct{}{}
		}
		for _, addr := range closed[d] {
			want[closedAddrsSet(d, familyOf(addr))][nft.AddrElement(addr)] = struct{}{}
		}
	}
}

func taggedSets() []*nft.Set {
	// Its elements stay: if one went between a frame's two hooks, the frame would pass.
	sets := []*nft.Set{dynamicSet(setTagged, "the node's own, for which frames with tags have come", nft.Of(nft.EtherAddr), 0)}
	for _, d := range policy.Directions {
		for _, f := range families {
			sets = append(sets, &nft.Set{
				Name: closedAddrsSet(d, f), Type: f.addr(), Elements: map[nft.Element]struct{}{}, Comment: fmt.Sprintf("pods that are isolated for %s, or not known", d),
			})
		}
	}
	return sets
}

// wrapped matches frames that are neither IP nor ARP, or have a tag.
var wrapped = nft.Lookup{Fields: []nft.Field{nft.FrameType}, Set: setFrameTypes, Not: true}

var intoTagged = nft.Rule{Matches: []nft.Match{wrapped}, Verdict: nft.Verdict{Action: nft.Jump, Chain: chainTagged}}

// taggedAtPrerouting are for ports that are no pod's, as a pod sends nothing that is wrapped. If the set is full,
// what is for the node is treated like the rest.
func taggedAtPrerouting() []nft.Rule {
	forNode := []nft.Match{wrapped, nft.Host, nft.Noted{Fields: []nft.Field{nft.DstMAC}, Set: setTagged}}
	return []nft.Rule{{Matches: forNode, Verdict: nft.Verdict{Action: nft.Accept}}, intoTagged}
}

func taggedAtForward() []nft.Rule {
	return []nft.Rule{
		intoTagged,
		dropped("for the node alone", nft.Lookup{Fields: []nft.Field{nft.OutPort}, Set: setIngressLinks}, nft.Lookup{Fields: []nft.Field{nft.DstMAC}, Set: setTagged}),
	}
}

func taggedChain() *nft.Chain {
	const unseen = "in a tag, where no policy sees it"
	chain := &nft.Chain{Name: chainTagged}
	for _, f := range families {
		chain.Rules = append(chain.Rules,
			dropped(unseen, nft.Lookup{Fields: []nft.Field{f.src()}, Set: closedAddrsSet(policy.Egress, f)}),
			dropped(unseen, nft.Lookup{Fields: []nft.Field{f.dst()}, Set: closedAddrsSet(policy.Ingress, f)}),
		)
	}
	return chain
}
