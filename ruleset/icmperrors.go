package ruleset

import (
	"slices"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// An ICMP error quotes a packet. Connection tracking takes it for related to the flow of
// that packet, whoever sends it, if it goes to who has sent that packet
// (nf_conntrack_inet_error in net/netfilter/nf_conntrack_proto_icmp.c). So who knows of a
// flow of somebody else's could send to its ends whatever fits into an error, past all
// policies, and tell a node that the way to another is a narrow one.
//
// A pod's error must be about a flow of its own: one of which it is an end, by the address
// that it sends from. An end is the source of the packets in one of the two directions as
// connection tracking has them before NAT: no NAT gives those another source, so two
// comparisons do, in between of whatever translation. An error about what connection
// tracking knows no flow of says nothing that anybody here could hold against the pod's
// policies, and is nobody's to send.
//
// nftables cannot compare two fields of a packet with each other, but look both up in a
// set of pairs: see samePodSet.
//
// Connection tracking looks for an ICMPv6 error behind an authentication header as well
// (ipv6_skip_exthdr), where nftables reads no further (IP6_FH_F_AUTH in nf_tables_ipv6.h). So
// what is related and has such a header is taken for an error, whatever it is.
//
// Where a policed pod receives an error, its sender may be any router on the way, so the
// address says nothing. Such errors are limited, for each pod.

// The errors that a pod of this node receives: so many a second, and so many at once.
const (
	errorsPerSecond = 100
	errorsBurst     = 100
)

// icmpErrorTypes are those that connection tracking relates to the flow of what they quote
// (nf_conntrack_icmpv4_error). Of ICMPv6 it does so with all types below 128.
var icmpErrorTypes = []uint8{3, 4, nft.ICMPRedirect, 11, 12}

// icmpErrors lead to where errors are looked at.
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

// errorSets are what errors are known by, and how many have come.
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

// errorsSentChain drops a pod's errors that are not about its own flows, and its redirects:
// it is no router.
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

// errorsReceivedChain drops what a pod gets of errors above the limit, of those that are
// related: by others nobody is to use up what the pod needs to know of its flows. They are
// judged like any packet. The rules go in this order because a limit that cannot be kept
// account of does not match.
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

// ends are the two ends of a flow, as each sends.
func (f family) ends() [2]nft.Field {
	if f == 4 {
		return [2]nft.Field{nft.CtOriginalSrc4, nft.CtReplySrc4}
	}
	return [2]nft.Field{nft.CtOriginalSrc6, nft.CtReplySrc6}
}

func (f family) pair() nft.SetType { return nft.Of(f.datatype(), f.datatype()) }
