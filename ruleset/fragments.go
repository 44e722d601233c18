package ruleset

// What a node's rules of family inet see has been put together out of fragments, by
// connection tracking. The table of family bridge sees fragments as they come. A first one
// that has no upper-layer header tells it nothing: with the next, it could be anything. No
// host sends such (RFC 7112), but a pod can. Fragments that overlap, by which what the
// first one has told could be changed, do not survive the putting together (RFC 5722;
// inet_frag_queue_insert in net/ipv4/inet_fragment.c, for both families).
//
// And the memory for fragments is the node's (net.ipv4.ipfrag_high_thresh, and
// net.netfilter.nf_conntrack_frag6_high_thresh): 4 MB each, where one that waits for
// others in vain stays for 30 or 60 seconds. So a pod may send a number of fragments only,
// before anything has seen them: such that what it can have waiting, each of 1,500 octets
// and the 2,304 that the kernel takes for them, leaves room for others.

// The fragments that a pod may send: so many a second, and so many at once.
const (
	fragmentsPerSecond = 20
	fragmentsBurst     = 200
)

const (
	chainFragments           = "fragments"
	chainFirstFragments      = "first-fragments"
	chainFragmentsPrerouting = "fragments-prerouting"
	setFragments             = "fragment-rates"
)

// ofFragments leads fragments that match what else is asked to where they are looked at.
func ofFragments(f family, matches ...Match) Rule {
	return Rule{Matches: append([]Match{Fragment{V6: f == 6}}, matches...), Verdict: Verdict{Action: Jump, Chain: chainFragments}}
}

// fragmentChains drop first fragments without an upper-layer header, and fragments above
// the limit of the link that they came in by.
func fragmentChains() []*Chain {
	toFirst := Verdict{Action: Jump, Chain: chainFirstFragments}
	return []*Chain{
		{Name: chainFragments, Rules: []Rule{
			{Matches: []Match{Fragment{First: true}}, Verdict: toFirst},
			{Matches: []Match{Fragment{First: true, V6: true}}, Verdict: toFirst},
			// It waits for nothing.
			{Matches: []Match{Atomic{}}, Verdict: Verdict{Action: Return}},
			{
				Matches: []Match{Limit{Field: InPort, Set: setFragments, PerSecond: fragmentsPerSecond, Burst: fragmentsBurst}},
				Verdict: Verdict{Action: Return},
			},
			dropped("too many fragments"),
		}},
		{Name: chainFirstFragments, Rules: []Rule{
			{Matches: []Match{UpperLayer{}}, Verdict: Verdict{Action: Return}},
			dropped("a first fragment without an upper-layer header"),
		}},
	}
}

func fragmentSet() *Set {
	return &Set{Name: setFragments, Type: IfName, Dynamic: true, Timeout: ratesTimeout, Elements: map[Element]struct{}{}, Comment: "ports that fragments have come by"}
}

// fragmentsBaseChain is in the table of family inet, for links that packets are routed
// over: before connection tracking puts fragments together (NF_IP_PRI_CONNTRACK_DEFRAG,
// raw - 100).
func fragmentsBaseChain() *Chain {
	chain := &Chain{Name: chainFragmentsPrerouting, Hook: &Hook{Point: Prerouting, Base: Raw, Priority: -150}}
	for _, f := range families {
		chain.Rules = append(chain.Rules, ofFragments(f, ofPodLink))
	}
	return chain
}

var ofPodLink = Lookup{Fields: []Field{InPort}, Set: setPodLinks}
