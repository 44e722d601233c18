package ruleset

import (
	"slices"

	"github.com/podfence/podfence/policy"
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

// redirect4 is the ICMP type.
const redirect4 = 5

// icmpErrorTypes are those that connection tracking relates to the flow of what they quote
// (nf_conntrack_icmpv4_error). Of ICMPv6 it does so with all types below 128.
var icmpErrorTypes = []uint8{3, 4, redirect4, 11, 12}

// icmpErrors lead to where errors are looked at.
func icmpErrors(d policy.Direction) []Rule {
	verdict := Verdict{Action: Jump, Chain: chainErrorsSent}
	if d == policy.Ingress {
		verdict.Chain = chainErrorsReceived
	}
	return []Rule{
		{Matches: []Match{Lookup{Fields: []Field{ICMPMessageType}, Set: setErrors}}, Verdict: verdict},
		{Matches: []Match{ICMPv6Error{}}, Verdict: verdict},
		{Matches: []Match{Related, Authenticated{}}, Verdict: verdict},
	}
}

// errorSets are what errors are known by, and how many have come.
func errorSets() []*Set {
	sets := []*Set{errorTypesSet()}
	for _, f := range families {
		sets = append(sets, &Set{
			Name: samePodSet(f), Type: f.pair(), Elements: map[Element]struct{}{}, Comment: "this node's pods: each address twice",
		}, &Set{
			Name: errorRatesSet(f), Type: f.addr(), Dynamic: true, Timeout: ratesTimeout, Elements: map[Element]struct{}{}, Comment: "pods that errors have come to",
		})
	}
	return sets
}

func errorTypesSet() *Set {
	return &Set{Name: setErrors, Type: ICMPType, Elements: messageTypes(icmpErrorTypes), Comment: "ICMP's errors"}
}

// errorsSentChain drops a pod's errors that are not about its own flows, and its redirects:
// it is no router.
func errorsSentChain() *Chain {
	chain := &Chain{Name: chainErrorsSent}
	for _, f := range families {
		isPod := Lookup{Fields: []Field{f.src(), f.src()}, Set: samePodSet(f)}
		if f == 4 {
			chain.Rules = append(chain.Rules, dropped("not a pod's to send", Redirect{}, isPod))
		}
		for _, end := range f.ends() {
			chain.Rules = append(chain.Rules, Rule{
				Matches: []Match{Lookup{Fields: []Field{f.src(), end}, Set: samePodSet(f)}}, Verdict: Verdict{Action: Return},
			})
		}
		for _, of := range []Match{
			isPod, Lookup{Fields: []Field{f.src()}, Set: orphansSet(f)}, Lookup{Fields: []Field{f.src()}, Set: podRangeSet(f)},
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
func errorsReceivedChain() *Chain {
	chain := &Chain{Name: chainErrorsReceived, Rules: []Rule{
		{Matches: []Match{New | Invalid | Untracked}, Verdict: Verdict{Action: Return}},
	}}
	for _, f := range families {
		isPod := Lookup{Fields: []Field{f.dst(), f.dst()}, Set: samePodSet(f)}
		limit := Limit{Field: f.dst(), Set: errorRatesSet(f), PerSecond: errorsPerSecond, Burst: errorsBurst}
		chain.Rules = append(chain.Rules,
			Rule{Matches: []Match{isPod, limit}, Verdict: Verdict{Action: Return}},
			dropped("too many ICMP errors", isPod),
		)
	}
	return chain
}

// dropped is a rule that drops, and counts.
func dropped(comment string, matches ...Match) Rule {
	return Rule{Matches: slices.Clip(matches), Counter: true, Verdict: Verdict{Action: Drop}, Comment: comment}
}

// ends are the two ends of a flow, as each sends.
func (f family) ends() [2]Field {
	if f == 4 {
		return [2]Field{CtOriginalSrc4, CtReplySrc4}
	}
	return [2]Field{CtOriginalSrc6, CtReplySrc6}
}

func (f family) pair() SetType {
	if f == 4 {
		return Pair4
	}
	return Pair6
}
