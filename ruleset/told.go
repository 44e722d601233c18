package ruleset

import (
	"fmt"
	"slices"

	"github.com/podfence/podfence/ruleset/nft"
)

// A rule that denies does not drop the packet itself if denials are told (Options.LogGroup): it counts the
// packet, and leads to the chain "denied", or "rejected" where the sender is answered. That tells the
// first packet of a flow to whoever listens to the nflog group, and drops it as it drops all others. If
// nobody listens, the kernel tells nobody, and takes no time to speak of for it.
//
// A pod that goes on to send what is denied must neither cost the node much nor hide what others are
// denied. So a flow (source, destination, protocol and destination port) is told once in toldFor seconds.
// Whoever tries many ports or addresses is told of up to toldPerSource times a second, and as the
// destination of others up to toldPerDestination times. Those bounds come first, so that nobody can fill
// the sets of flows that were told. Fragments behind the first have no port, and are not told.

const (
	// toldFor is for how many seconds a flow that was told is not told again.
	toldFor = 10
	// toldPerSource and toldPerDestination are how many denied flows of one source, or to one
	// destination, are told per second; twice as many at once.
	toldPerSource, toldPerDestination = 50, 200
)

// toldSet holds the flows that were told: those of ICMP, and all others.
func toldSet(f family, ports bool) string {
	if ports {
		return fmt.Sprintf("told-%d", f)
	}
	return fmt.Sprintf("told-icmp-%d", f)
}

// tellingSet keeps account of how many flows of each source, or to each destination, are told.
func tellingSet(f family, of string) string { return fmt.Sprintf("telling-%s-%d", of, f) }

func toldSets() (sets []*nft.Set) {
	dynamic := func(name string, t nft.SetType, comment string) {
		sets = append(sets, &nft.Set{Name: name, Type: t, Dynamic: true, Timeout: toldFor, Elements: map[nft.Element]struct{}{}, Comment: comment})
	}
	for _, f := range families {
		addr := f.datatype()
		dynamic(toldSet(f, true), nft.Of(addr, addr, nft.InetProto, nft.InetService), "denied flows that were told")
		dynamic(toldSet(f, false), nft.Of(addr, addr, nft.InetProto), "denied flows of ICMP that were told")
		dynamic(tellingSet(f, "source"), f.addr(), "how often denials are told")
		dynamic(tellingSet(f, "destination"), f.addr(), "how often denials are told")
	}
	return sets
}

// deniedChains are the chains that rules which deny lead to.
func deniedChains(o Options) []*nft.Chain {
	chains := []*nft.Chain{deniedChain(chainDenied, nft.Drop, o.LogGroup), deniedChain(chainDeniedInvalid, nft.Drop, o.LogGroup)}
	if o.Reject {
		chains = append(chains, deniedChain(chainRejected, nft.Reject, o.LogGroup))
	}
	if o.RevokedMark != 0 {
		chains = append(chains, deniedChain(chainDeniedRevoked, nft.Drop, o.LogGroup), deniedChain(chainDeniedMidway, nft.Drop, o.LogGroup))
	}
	return chains
}

// deniedChain tells the first packet of a flow to a group, with the chain's name, and has one verdict on
// all.
func deniedChain(name string, verdict nft.Action, group uint16) *nft.Chain {
	chain := &nft.Chain{Name: name}
	end := func(log nft.Log, matches ...nft.Match) {
		chain.Rules = append(chain.Rules, nft.Rule{Matches: matches, Log: log, Verdict: nft.Verdict{Action: verdict}})
	}
	tell := func(f family, ports bool, of ...nft.Match) {
		end(nft.Log{Group: group, Prefix: name}, append(of,
			nft.Limit{Field: f.src(), Set: tellingSet(f, "source"), PerSecond: toldPerSource, Burst: 2 * toldPerSource},
			nft.Limit{Field: f.dst(), Set: tellingSet(f, "destination"), PerSecond: toldPerDestination, Burst: 2 * toldPerDestination},
			nft.Noted{Fields: toldFields(f, ports), Set: toldSet(f, ports)},
		)...)
	}
	for _, ports := range []bool{true, false} {
		for _, f := range families {
			end(nft.Log{}, nft.Lookup{Fields: toldFields(f, ports), Set: toldSet(f, ports)})
		}
	}
	for _, f := range families {
		tell(f, false, f.icmp())
		end(nft.Log{}, f.icmp()) // where others have a port, ICMP has a checksum
	}
	for _, f := range families {
		tell(f, true)
	}
	end(nft.Log{})
	return chain
}

// toldFields are the fields that tell flows apart.
func toldFields(f family, ports bool) []nft.Field {
	fields := []nft.Field{f.src(), f.dst(), nft.L4Protocol}
	if ports {
		fields = append(fields, nft.DstPort)
	}
	return fields
}

// icmp matches the family's ICMP.
func (f family) icmp() nft.Match {
	if f == 4 {
		return nft.ICMP{}
	}
	return nft.ICMPv6{}
}

// tell has the rules of a chain that deny lead to where denials are told.
func (o Options) tell(chain *nft.Chain) {
	ends := func(r nft.Rule) bool { return r.Verdict.Action == nft.Drop || r.Verdict.Action == nft.Reject }
	if !slices.ContainsFunc(chain.Rules, ends) {
		return
	}
	chain.Rules = slices.Clone(chain.Rules) // others may have the same
	for i, rule := range chain.Rules {
		switch rule.Verdict.Action {
		case nft.Drop:
			chain.Rules[i].Verdict = nft.Verdict{Action: nft.Jump, Chain: o.deniedBy(rule)}
		case nft.Reject:
			chain.Rules[i].Verdict = nft.Verdict{Action: nft.Jump, Chain: chainRejected}
		}
	}
}

// deniedBy is the chain that a rule leads to which drops. What only connection tracking knows has chains of
// its own, so that whoever is told need not ask it: not every kernel tells (CONFIG_NETFILTER_NETLINK_GLUE_CT),
// and the flow of a packet that was dropped is not kept.
func (o Options) deniedBy(rule nft.Rule) string {
	switch {
	case refusesInvalid(rule):
		return chainDeniedInvalid
	case o.RevokedMark != 0 && slices.Contains(rule.Matches, nft.Match(nft.Mark(o.RevokedMark))):
		return chainDeniedRevoked
	case slices.ContainsFunc(rule.Matches, func(m nft.Match) bool { _, is := m.(nft.Midstream); return is }):
		return chainDeniedMidway
	}
	return chainDenied
}

// tells reports whether a chain is one that rules which deny lead to.
func tells(chain string) bool {
	return chain == chainDenied || chain == chainRejected || chain == chainDeniedInvalid || chain == chainDeniedRevoked || chain == chainDeniedMidway
}

// denies reports whether a rule denies, by itself or by leading to where denials are told.
func denies(rule nft.Rule) bool {
	v := rule.Verdict
	return v.Action == nft.Drop || v.Action == nft.Reject || v.Action == nft.Jump && tells(v.Chain)
}
