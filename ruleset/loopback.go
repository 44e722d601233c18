package ruleset

import "github.com/podfence/podfence/ruleset/nft"

// Loopback addresses mean the host that uses them, and are on no wire (RFC 1122 section
// 3.2.1.3, RFC 4291 section 2.5.3). The kernel sees to that, but for IPv4 not where
// route_localnet is on: kube-proxy turns it on for all links, to serve node ports on the
// node's 127.0.0.1. A program that listens there, as podfence does with its health and metrics,
// trusts that nobody but the node reaches it.

// loopbackRules drop what comes from a loopback address, whoever sends it, and what a pod sends to
// one, whoever has translated it to that. They come after the rules for known flows: with a node
// port on 127.0.0.1, a pod's answers are translated back to that address.
func loopbackRules() (rules []nft.Rule) {
	const comment = "a loopback address, but not on the loopback device"
	for _, f := range families {
		rules = append(rules,
			dropped(comment, nft.Lookup{Fields: []nft.Field{f.src()}, Set: f.loopback()}),
			dropped(comment, nft.Lookup{Fields: []nft.Field{f.dst()}, Set: f.loopback()}, nft.Lookup{Fields: []nft.Field{f.src(), f.src()}, Set: samePodSet(f)}),
		)
	}
	return rules
}

func loopbackSets() []*nft.Set {
	return []*nft.Set{
		ranges(setLoopback4, nft.RangesOf(nft.IPv4Addr), "each host's own", "127.0.0.0/8"),
		ranges(setLoopback6, nft.RangesOf(nft.IPv6Addr), "each host's own", "::1/128"),
	}
}

func (f family) loopback() string {
	if f == 4 {
		return setLoopback4
	}
	return setLoopback6
}
