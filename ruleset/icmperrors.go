package ruleset

import (
	"slices"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// An ICMP error quotes a packet. Whoever sends the error, connection tracking takes it for
// related to the flow of the quoted packet, if it goes to the host that sent that packet
// (nf_conntrack_inet_error in net/netfilter/nf_conntrack_proto_icmp.c). So anyone who knows of
// somebody else's flow could send to its ends whatever fits into an error, past all policies,
// and tell a node that the way to another is a narrow one.
//
// A pod's error must be about a flow of its own: one of which the address that it sends from
// is an end. An end is the source of the packets in one of the two directions, as connection
// tracking has them before NAT. No NAT gives these packets another source, so two comparisons
// are enough, whatever is translated in between. An error about a packet of which connection
// tracking knows no flow says nothing that anybody here could hold against the pod's policies,
// and no pod may send one.
//
// nftables cannot compare two fields of a packet with each other, but it can look both up in
// a set of pairs: see samePodSet.
//
// Connection tracking looks for an ICMPv6 error behind an authentication header as well
// (ipv6_skip_exthdr), where nftables reads no further (IP6_FH_F_AUTH in nf_tables_ipv6.h). So
// whatever is related and has such a header is taken for an error.
//
// An error that a policed pod receives may come from any router on the way, so its sender's
// address says nothing. Such errors are limited, for each pod.

// How many errors a pod of this node may receive each second, and how many at once.
const (
	errorsPerSecond = 100
	errorsBurst     = 100
)

// icmpErrorTypes are the types of ICMP that connection tracking relates to the flow of the packet
// that they quote (nf_conntrack_icmpv4_error). For ICMPv6 these are all types below 128.
var icmpErrorTypes = []uint8{3, 4, nft.ICMPRedirect, 11, 12}

// icmpErrors are the rules that lead errors to the chain that looks at them.
func icmpErrors(d policy.Direction) []nft.Rule {
	verdict := nft.Verdict{Action: nft.Jump, Chain: chainErrorsSent}
	if d == policy.Ingress {
		verdict.Chain = chainErrorsReceived
	}
	return []nft.Rule{
		{Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{nft.ICMPMessageType}, Set: setErrors}}, Verdict: verdict},
		{Matches: []nft.Match{nft.ICMPv6Error{}}, Verdict: verdict},
		{Matches: []nft.Match{nft.Related, nft.Authenticated{}}, Verdict: verdict},
	}
}

// errorSets are the sets by which errors are known, and those that count how many have come.
func errorSets() []*nft.Set {
	sets := []*nft.Set{errorTypesSet()}
	for _, f := range families {
		sets = append(sets, &nft.Set{
			Name: samePodSet(f), Type: f.pair(), Elements: map[nft.Element]struct{}{}, Comment: "this node's pods: each address twice",
		}, &nft.Set{
			Name: errorRatesSet(f), Type: f.addr(), Dynamic: true, Timeout: ratesTimeout, Elements: map[nft.Element]struct{}{}, Comment: "pods that errors have come to",
		})
	}
	return sets
}

func errorTypesSet() *nft.Set {
	return &nft.Set{Name: setErrors, Type: nft.Of(nft.ICMPType), Elements: messageTypes(icmpErrorTypes), Comment: "ICMP's errors"}
}

// errorsSentChain drops a pod's errors that are not about its own flows. It also drops a pod's
// redirects, because a pod is no router.
func errorsSentChain() *nft.Chain {
	chain := &nft.Chain{Name: chainErrorsSent}
	for _, f := range families {
		isPod := nft.Lookup{Fields: []nft.Field{f.src(), f.src()}, Set: samePodSet(f)}
		if f == 4 {
			chain.Rules = append(chain.Rules, dropped("not a pod's to send", nft.Redirect{}, isPod))
		}
		for _, end := range f.ends() {
			chain.Rules = append(chain.Rules, nft.Rule{
				Matches: []nft.Match{nft.Lookup{Fields: []nft.Field{f.src(), end}, Set: samePodSet(f)}}, Verdict: nft.Verdict{Action: nft.Return},
			})
		}
		for _, of := range []nft.Match{
			isPod, nft.Lookup{Fields: []nft.Field{f.src()}, Set: orphansSet(f)}, nft.Lookup{Fields: []nft.Field{f.src()}, Set: podRangeSet(f)},
		} {
			chain.Rules = append(chain.Rules, dropped("an ICMP error, but not about a flow of the pod's own", of))
		}
	}
	return chain
}

// errorsReceivedChain drops related errors to a pod that are above the limit. Errors that are
// not related do not count towards it, so that nobody can use up with them the errors that the
// pod needs to know of its flows; they are judged like any packet. The rules are in this order
// because a limit does not match when the kernel cannot keep account of it.
func errorsReceivedChain() *nft.Chain {
	chain := &nft.Chain{Name: chainErrorsReceived, Rules: []nft.Rule{
		{Matches: []nft.Match{nft.New | nft.Invalid | nft.Untracked}, Verdict: nft.Verdict{Action: nft.Return}},
	}}
	for _, f := range families {
		isPod := nft.Lookup{Fields: []nft.Field{f.dst(), f.dst()}, Set: samePodSet(f)}
		limit := nft.Limit{Field: f.dst(), Set: errorRatesSet(f), PerSecond: errorsPerSecond, Burst: errorsBurst}
		chain.Rules = append(chain.Rules,
			nft.Rule{Matches: []nft.Match{isPod, limit}, Verdict: nft.Verdict{Action: nft.Return}},
			dropped("too many ICMP errors", isPod),
		)
	}
	return chain
}

// dropped is a rule that drops, and counts.
func dropped(comment string, matches ...nft.Match) nft.Rule {
	return nft.Rule{Matches: slices.Clip(matches), Counter: true, Verdict: nft.Verdict{Action: nft.Drop}, Origin: nft.Sentence(comment)}
}

// ends are the fields with the two ends of a flow: the address that each sends from.
func (f family) ends() [2]nft.Field {
	if f == 4 {
		return [2]nft.Field{nft.CtOriginalSrc4, nft.CtReplySrc4}
	}
	return [2]nft.Field{nft.CtOriginalSrc6, nft.CtReplySrc6}
}

func (f family) pair() nft.SetType { return nft.Of(f.datatype(), f.datatype()) }
