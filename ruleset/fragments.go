package ruleset

import (
	"fmt"

	"github.com/podfence/podfence/ruleset/nft"
)

// Connection tracking puts fragments together before a node's rules of family inet see them.
// The table of family bridge sees fragments as they come. A first fragment without an
// upper-layer header tells it nothing: with the next fragment, the packet could be anything.
// No host sends such fragments (RFC 7112), but a pod can. Fragments that overlap could change
// what the first one said, but the kernel does not put these together (RFC 5722;
// inet_frag_queue_insert in net/ipv4/inet_fragment.c, for both families).
//
// The memory for fragments is the node's as well, and a fragment that waits for others in vain
// stays in it for half a minute or more. So there is a limit on the fragments that a pod may
// send, applied before anything has looked at them: those that it can have waiting take at most
// half of that memory. Fragments are counted, as each takes memory for itself, and so are their
// octets: what a pod leaves to its network card to cut up comes whole, with up to 64 kB.

// FragmentMemory is what a node has for the fragments of each family that wait for others.
type FragmentMemory struct{ V4, V6 Waiting }

// Waiting is how much may wait, and for how long. Zero stands for the kernel's default.
type Waiting struct {
	// Octets are net.ipv4.ipfrag_high_thresh, net.netfilter.nf_conntrack_frag6_high_thresh.
	Octets uint64
	// Seconds are net.ipv4.ipfrag_time, net.netfilter.nf_conntrack_frag6_timeout.
	Seconds uint32
}

// of is the memory of a family, with the kernel's defaults for what is zero (IP_FRAG_TIME in
// include/net/ip.h, IPV6_FRAG_TIMEOUT and IPV6_FRAG_HIGH_THRESH in include/net/ipv6.h).
func (m FragmentMemory) of(f family) Waiting {
	w, seconds := m.V4, uint32(30)
	if f == 6 {
		w, seconds = m.V6, 60
	}
	if w.Octets == 0 {
		w.Octets = 4 << 20
	}
	if w.Seconds == 0 {
		w.Seconds = seconds
	}
	return w
}

const (
	// fragmentTaken is how much memory the kernel takes for a fragment of 1,500 octets,
	// including the unused part of its buffer and what describes it (SKB_TRUESIZE).
	fragmentTaken = 2304
	// fragmentOctets is the length of a fragment, rounded so that nft can show rates in kB, of
	// 1,024 octets.
	fragmentOctets = 1536
	// mostFragments keeps a limit's octets within 32 bits.
	mostFragments = 1 << 20
)

// limit is how many fragments a pod may send. Half of the memory is for it: a quarter of that
// may come at once, and the rest spread over the time that a fragment waits.
func (w Waiting) limit() (perSecond, burst uint32) {
	fragments := uint32(min(w.Octets/2/fragmentTaken, mostFragments))
	burst = max(fragments/4, 1)
	return max((fragments-fragments/4)/max(w.Seconds, 1), 1), burst
}

// The names of what looks at fragments.
const (
	chainFirstFragments     = "first-fragments"
	chainPodLinksPrerouting = "pod-links-prerouting"
)

func fragmentsChain(f family) string    { return fmt.Sprintf("fragments-%d", f) }
func fragmentRatesSet(f family) string  { return fmt.Sprintf("fragment-rates-%d", f) }
func fragmentOctetsSet(f family) string { return fmt.Sprintf("fragment-octets-%d", f) }

// ofFragments leads fragments that also meet the other matches to fragmentsChain.
func ofFragments(f family, matches ...nft.Match) nft.Rule {
	return nft.Rule{Matches: append([]nft.Match{nft.Fragment{V6: f == 6}}, matches...), Verdict: nft.Verdict{Action: nft.Jump, Chain: fragmentsChain(f)}}
}

// fragmentChains drop first fragments without an upper-layer header, and fragments above
// the limit of the link that they came in by.
func fragmentChains(m FragmentMemory) []*nft.Chain {
	chains := []*nft.Chain{{Name: chainFirstFragments, Rules: []nft.Rule{
		{Matches: []nft.Match{nft.UpperLayer{}}, Verdict: nft.Verdict{Action: nft.Return}},
		dropped("a first fragment without an upper-layer header"),
	}}}
	for _, f := range families {
		chain := &nft.Chain{Name: fragmentsChain(f), Rules: []nft.Rule{
			{Matches: []nft.Match{nft.Fragment{First: true, V6: f == 6}}, Verdict: nft.Verdict{Action: nft.Jump, Chain: chainFirstFragments}},
		}}
		if f == 6 { // an atomic fragment waits for no others
			chain.Rules = append(chain.Rules, nft.Rule{Matches: []nft.Match{nft.Atomic{}}, Verdict: nft.Verdict{Action: nft.Return}})
		}
		perSecond, burst := m.of(f).limit()
		chain.Rules = append(chain.Rules, nft.Rule{
			Matches: []nft.Match{
				nft.Limit{Field: nft.InPort, Set: fragmentRatesSet(f), PerSecond: perSecond, Burst: burst},
				nft.Limit{Field: nft.InPort, Set: fragmentOctetsSet(f), PerSecond: perSecond * fragmentOctets, Burst: burst * fragmentOctets, Octets: true},
			},
			Verdict: nft.Verdict{Action: nft.Return},
		}, dropped("too many fragments"))
		chains = append(chains, chain)
	}
	return chains
}

// ratesTimeout is after how many seconds without a packet a rate is forgotten.
const ratesTimeout = 60

func fragmentSets() (sets []*nft.Set) {
	for _, f := range families {
		for name, comment := range map[string]string{
			fragmentRatesSet(f): "ports that fragments have come by", fragmentOctetsSet(f): "the same, for the fragments' octets",
		} {
			sets = append(sets, &nft.Set{Name: name, Type: nft.Of(nft.IfName), Dynamic: true, Timeout: ratesTimeout, Elements: map[nft.Element]struct{}{}, Comment: comment})
		}
	}
	return sets
}
