package ruleset

import (
	"fmt"

	"github.com/podfence/podfence/ruleset/nft"
)

// What a node's rules of family inet see has been put together out of fragments, by
// connection tracking. The table of family bridge sees fragments as they come. A first one
// that has no upper-layer header tells it nothing: with the next, it could be anything. No
// host sends such (RFC 7112), but a pod can. Fragments that overlap, by which what the
// first one has told could be changed, do not survive the putting together (RFC 5722;
// inet_frag_queue_insert in net/ipv4/inet_fragment.c, for both families).
//
// And the memory for fragments is the node's, where one that waits for others in vain stays
// for half a minute or more. So a pod may send a number of fragments only, before anything
// has seen them: such that what it can have waiting takes half of that memory. Fragments
// are counted, as each takes memory for itself, and so are their octets: what a pod says
// that its card is to cut up comes whole, up to 64 kB of it.

// FragmentMemory is what a node has for the fragments of each family that wait for others.
type FragmentMemory struct{ V4, V6 Waiting }

// Waiting is how much may wait, and how long. What is zero is as the kernel has it where
// nobody has set it.
type Waiting struct {
	// Octets are net.ipv4.ipfrag_high_thresh, net.netfilter.nf_conntrack_frag6_high_thresh.
	Octets uint64
	// Seconds are net.ipv4.ipfrag_time, net.netfilter.nf_conntrack_frag6_timeout.
	Seconds uint32
}

// of is a family's, with what the kernel has (IP_FRAG_TIME in include/net/ip.h,
// IPV6_FRAG_TIMEOUT and IPV6_FRAG_HIGH_THRESH in include/net/ipv6.h).
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
	// fragmentTaken is what the kernel takes for a fragment of 1,500 octets, with its
	// buffer's rest and what describes it (SKB_TRUESIZE).
	fragmentTaken = 2304
	// fragmentOctets is one's length, in whole kB of 1,024, by which nft shows rates.
	fragmentOctets = 1536
	// mostFragments keeps a limit's octets within 32 bits.
	mostFragments = 1 << 20
)

// limit is what a pod may send: half of the memory is its, of which a quarter at once and
// the rest over the time that a fragment waits.
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

// ofFragments leads fragments that match what else is asked to where they are looked at.
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
		if f == 6 { // it waits for nothing
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

// ratesTimeout is for how many seconds the rate of what has not come since is kept.
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
