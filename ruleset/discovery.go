package ruleset

import (
	"net/netip"

	"go4.org/netipx"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// The ICMPv6 messages without which no IPv6 link works pass unjudged: neighbour
// discovery, and where a bridge looks into multicast, listener discovery. Nothing else
// does, and these only with the hop limit and the addresses that their RFCs prescribe.
// The hop limit says that no router has forwarded a message of neighbour discovery. Of
// listener discovery it does not: the kernel lowers the hop limit before the hook
// forward (ip6_forward in net/ipv6/ip6_output.c), so one that was sent with 2 is seen
// with 1. Only its addresses, which no router forwards, say that it is of the link.
//
// Neighbour discovery must not have extension headers or fragments either (RFC 6980), as
// anything could be hidden in them.
//
// Router advertisements and redirects are judged like anything else.

// The ICMPv6 types that may pass unjudged.
const (
	routerSolicitation     nft.MessageType = 133
	neighbourSolicitation  nft.MessageType = 135
	neighbourAdvertisement nft.MessageType = 136
)

// multicastListener are the types of multicast listener discovery, versions 1 and 2.
var multicastListener = []uint8{130, 131, 132, 143}

// The hop limits that they are sent with (RFC 4861 section 7.1, RFC 2710 section 3, RFC
// 3810 section 5).
const (
	neighbourHopLimit nft.HopLimit = 255
	listenerHopLimit  nft.HopLimit = 1
)

// unicast6 are all IPv6 addresses that belong to a single host. senders6 are these and the
// unspecified address, from which a host sends that has no address yet.
const (
	unicast6 = "::2-feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
	senders6 = "::-feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
)

// ranges is a set of ranges of addresses that never change. Each text is a prefix, or two
// addresses with a dash between them.
func ranges(name string, of nft.SetType, comment string, texts ...string) *nft.Set {
	elements := map[nft.Element]struct{}{}
	for _, text := range texts {
		if r, err := netipx.ParseIPRange(text); err == nil {
			elements[nft.AddrsElement(r.From(), r.To())] = struct{}{}
		} else {
			elements[nft.PrefixElement(netip.MustParsePrefix(text))] = struct{}{}
		}
	}
	set := &nft.Set{Name: name, Type: of, Comment: comment}
	set.SetElements(elements)
	return set
}

// discoverySets are the sets of addresses that the messages may go to and come from, and of
// their types.
func discoverySets() []*nft.Set {
	return []*nft.Set{
		ranges(setSolicited, nft.RangesOf(nft.IPv6Addr), "where neighbours are asked for (RFC 4861 section 4.3)", unicast6, "ff02::1:ff00:0/104"),
		ranges(setAdvertised, nft.RangesOf(nft.IPv6Addr), "where neighbours answer to (RFC 4861 section 4.4)", unicast6, "ff02::1/128"),
		ranges(setSenders6, nft.RangesOf(nft.IPv6Addr), "who asks, or answers", senders6),
		ranges(setAllRouters, nft.RangesOf(nft.IPv6Addr), "where routers are asked for (RFC 4861 section 4.1)", "ff02::2/128"),
		ranges(setMulticast6, nft.RangesOf(nft.IPv6Addr), "multicast", "ff00::/8"),
		ranges(setLinkLocal6, nft.RangesOf(nft.IPv6Addr), "link-local, and none yet", "::/128", "fe80::/10"),
		{Name: setMulticastListener, Type: nft.Of(nft.ICMPv6Type), Elements: messageTypes(multicastListener), Comment: "multicast listener discovery"},
	}
}

// discoveryChain lets discovery messages pass. It lets no pod's link pass messages that only a
// router may send.
func discoveryChain(o Options) *nft.Chain {
	accept := nft.Verdict{Action: nft.Accept}
	chain := &nft.Chain{Name: chainDiscovery}
	if o.Links {
		chain.Rules = append(chain.Rules, routersOnly)
		// On a bridge, an isolated pod may send these to the node, from any address. The node
		// must not route them on; one that is routed is known by its hop limit, which is one less.
		for _, message := range []nft.MessageType{neighbourSolicitation, neighbourAdvertisement} {
			chain.Rules = append(chain.Rules, dropped("neighbour discovery, but routed", message, neighbourHopLimit-1))
		}
	}
	from := nft.Lookup{Fields: []nft.Field{nft.SrcAddr6}, Set: setSenders6}
	chain.Rules = append(chain.Rules, []nft.Rule{
		{Matches: []nft.Match{nft.NextHeader{Protocol: hopByHop}}, Verdict: nft.Verdict{Action: nft.Jump, Chain: chainListeners}},
		{Matches: []nft.Match{nft.NextHeader{Protocol: policy.ICMPv6, Not: true}}, Verdict: nft.Verdict{Action: nft.Return}},
		{Matches: []nft.Match{neighbourSolicitation, neighbourHopLimit, to6(setSolicited), from}, Verdict: accept},
		{Matches: []nft.Match{neighbourAdvertisement, neighbourHopLimit, to6(setAdvertised), from}, Verdict: accept},
		{Verdict: nft.Verdict{Action: nft.Jump, Chain: chainListeners}},
	}...)
	return chain
}

// hopByHop is the extension header in which listener discovery has a router alert.
const hopByHop = 0

// listenersChain lets listener discovery pass.
func listenersChain() *nft.Chain {
	return &nft.Chain{Name: chainListeners, Rules: []nft.Rule{{
		Matches: []nft.Match{
			nft.Lookup{Fields: []nft.Field{nft.ICMPv6MessageType}, Set: setMulticastListener}, listenerHopLimit,
			to6(setMulticast6), nft.Lookup{Fields: []nft.Field{nft.SrcAddr6}, Set: setLinkLocal6},
		},
		Verdict: nft.Verdict{Action: nft.Accept},
	}}}
}

// discovery leads ICMPv6 to discoveryChain.
var discovery = nft.Rule{Matches: []nft.Match{nft.ICMPv6{}}, Verdict: nft.Verdict{Action: nft.Jump, Chain: chainDiscovery}}

// askNode lets a pod ask its node for routers.
var askNode = nft.Rule{
	Matches: []nft.Match{routerSolicitation, neighbourHopLimit, to6(setAllRouters)},
	Verdict: nft.Verdict{Action: nft.Accept},
}

func to6(set string) nft.Lookup { return nft.Lookup{Fields: []nft.Field{nft.DstAddr6}, Set: set} }
