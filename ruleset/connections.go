package ruleset

import (
	"fmt"

	"github.com/podfence/podfence/ruleset/nft"
)

// The table of connection tracking is the node's, and all its pods share it. The connections
// that a pod begins fill it, whether or not anybody answers them. As a pod can choose ports and
// addresses, one pod alone can fill it. So there may be a bound on the connections that a pod
// has begun and that connection tracking knows (Options.MaxConnections).
//
// They are counted where they begin (nf_conncount): the first packet of a connection that a
// pod begins puts the connection on the pod's list, and takes connections that have ended off
// the list. Later packets of the connection do not come here, even if nobody answers it. Only
// the first packet may come here, because others would be counted as well (nft_connlimit.c,
// before Linux 6.18).
//
// A connection that is dropped stays on the list until the next ones take it off, eight at a
// time. So that a pod that goes on to begin connections over its bound does not make its list
// long by that, and so slow, it begins none at all for a second.
//
// Connections to a pod are not counted at that pod. They are counted where they come from, if
// that is a pod. A bound on what anybody can send to a pod would be a way to keep others from
// reaching it.

// connectionsPause is for how many seconds a pod with too many connections can begin none.
const connectionsPause = 1

// chainConnections is where a packet that begins a connection goes.
const chainConnections = "connections"

// connectionsSet holds the pods' connections, pausedSet the pods that have too many.
func connectionsSet(f family) string { return fmt.Sprintf("connections-%d", f) }
func pausedSet(f family) string      { return fmt.Sprintf("too-many-connections-%d", f) }

func connectionsSets() (sets []*nft.Set) {
	for _, f := range families {
		sets = append(sets, &nft.Set{
			Name: connectionsSet(f), Type: f.addr(), Dynamic: true, Elements: map[nft.Element]struct{}{},
			Comment: "connections that pods have begun",
		}, &nft.Set{
			Name: pausedSet(f), Type: f.addr(), Dynamic: true, Timeout: connectionsPause, Elements: map[nft.Element]struct{}{},
			Comment: "pods that have begun too many connections",
		})
	}
	return sets
}

// connectionsChain drops packets with which a pod that has too many connections begins another.
func connectionsChain(limit uint32) *nft.Chain {
	const comment = "the pod has too many connections"
	chain := &nft.Chain{Name: chainConnections}
	for _, f := range families {
		chain.Rules = append(chain.Rules,
			dropped(comment, nft.Lookup{Fields: []nft.Field{f.src()}, Set: pausedSet(f)}),
			dropped(comment,
				nft.Lookup{Fields: []nft.Field{f.src(), f.src()}, Set: samePodSet(f)},
				nft.Connections{Field: f.src(), Set: connectionsSet(f), Over: limit},
				nft.Noted{Fields: []nft.Field{f.src()}, Set: pausedSet(f)},
			),
		)
	}
	return chain
}

// begun leads the first packet of a connection to chainConnections, where connections are counted.
var begun = nft.Rule{Matches: []nft.Match{nft.Unconfirmed{}}, Verdict: nft.Verdict{Action: nft.Jump, Chain: chainConnections}}
