package ruleset

import (
	"fmt"

	"github.com/podfence/podfence/ruleset/nft"
)

// The table of connection tracking is the node's, and all its pods share it. What a pod
// begins fills it, whether or not anybody answers: with ports and addresses to choose from,
// one pod can. So there may be a bound on the connections that a pod has begun and that
// connection tracking knows (Options.MaxConnections).
//
// They are counted where they begin (nf_conncount): the first packet of a connection that a
// pod begins puts it on the pod's list, and takes off the list what has ended. Later packets
// of it meet none of this, those of one that nobody answers neither. It must be the first
// packet alone: others would be counted too (nft_connlimit.c, before Linux 6.18).
//
// A connection that is dropped stays on the list until the next ones take it off, eight at a
// time. So that a pod that goes on to begin connections over its bound does not make its list
// long by that, and so slow, it begins none at all for a second.
//
// What comes to a pod is not counted. It is counted where it comes from, if that is a pod; and
// a bound on what anybody can send to a pod would be a way to keep others from it.

// connectionsPause is for how many seconds a pod that has too many connections begins none.
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

// connectionsChain drops what begins a connection of a pod that has too many.
func connectionsChain(limit uint32) *nft.Chain {
	const comment = "the pod has too many connections"
	chain := &nft.Chain{Name: chainConnections}
	for _, f := range families {
		chain.Rules = append(chain.Rules,
			dropped(comment, nft.Lookup{Fields: []nft.Field{f.src()}, Set: pausedSet(f)}),
			dropped(comment,
				nft.Lookup{Fields: []nft.Field{f.src(), f.src()}, Set: samePodSet(f)},
				nft.Connections{Field: f.src(), Set: connectionsSet(f), Over: limit},
				nft.Noted{Field: f.src(), Set: pausedSet(f)},
			),
		)
	}
	return chain
}

// begun leads the first packet of a connection to where connections are counted.
var begun = nft.Rule{Matches: []nft.Match{nft.Unconfirmed{}}, Verdict: nft.Verdict{Action: nft.Jump, Chain: chainConnections}}
