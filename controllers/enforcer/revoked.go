package enforcer

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// judged is what a flow is judged by. Flows between the same two addresses to the same port count
// as one.
type judged struct {
	hook   nft.HookPoint
	packet policy.Packet
}

// denials are flows that were found denied, at most as many as remembered, and the addresses at
// their ends.
type denials struct {
	flows map[judged]struct{}
	ends  map[netip.Addr]struct{}
}

func newDenials() *denials {
	return &denials{flows: map[judged]struct{}{}, ends: map[netip.Addr]struct{}{}}
}

func (d *denials) note(flow judged) {
	if len(d.flows) < remembered {
		d.flows[flow] = struct{}{}
		d.ends[flow.packet.Src], d.ends[flow.packet.Dst] = struct{}{}, struct{}{}
	}
}

func (d *denials) add(more *denials) {
	maps.Copy(d.flows, more.flows)
	maps.Copy(d.ends, more.ends)
}

// mayBeOf reports whether a denied flow may have the address at one of its ends.
func (d *denials) mayBeOf(addr netip.Addr) bool {
	_, is := d.ends[addr]
	return is || len(d.flows) >= remembered
}

// revocations tell apart what a round of judging has cut and what was cut before.
type revocations struct {
	mu sync.Mutex
	// before is what the last round of all flows has found denied, and now what this one has. Both
	// also have what partial rounds have found meanwhile. rounds is how many rounds of all flows
	// have begun.
	before, now *denials
	rounds      int
}

func newRevocations() revocations { return revocations{before: newDenials(), now: newDenials()} }

// round begins a round of all flows, whose judge it returns.
func (r *revocations) round(passes func(nft.HookPoint, policy.Packet) bool) func(nft.HookPoint, policy.Packet) bool {
	r.mu.Lock()
	r.before, r.now = r.now, newDenials()
	r.rounds++
	now := r.now
	r.mu.Unlock()
	return r.noting(now, passes)
}

// partialRound begins a round of some flows beside those of all. It returns the round's judge, and
// its why.
func (r *revocations) partialRound(passes func(nft.HookPoint, policy.Packet) bool) (
	judge func(nft.HookPoint, policy.Packet) bool, why func(denied func(nft.HookPoint, policy.Packet) string) []Denial,
) {
	cut := newDenials()
	return r.noting(cut, passes), func(denied func(nft.HookPoint, policy.Packet) string) []Denial {
		r.mu.Lock()
		defer r.mu.Unlock()
		all := denialsOf(cut, denied, r.before, r.now)
		r.before.add(cut)
		r.now.add(cut)
		return all
	}
}

// noting is a judge that notes what it denies.
func (r *revocations) noting(cut *denials, passes func(nft.HookPoint, policy.Packet) bool) func(nft.HookPoint, policy.Packet) bool {
	return func(hook nft.HookPoint, p policy.Packet) bool {
		passed := passes(hook, p)
		if !passed {
			r.mu.Lock()
			defer r.mu.Unlock()
			cut.note(judged{hook, p})
		}
		return passed
	}
}

// mayBeOf reports whether a flow that is cut may have the address at one of its ends. It does not
// know yet what a partial round under way has found denied. It knows what an earlier agent has cut
// only when the first round of all flows has ended, and reports true until then.
func (r *revocations) mayBeOf(addr netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rounds < 2 || r.before.mayBeOf(addr) || r.now.mayBeOf(addr)
}

// remembered is how many flows are remembered at most: those that a round has denied, and those that a
// judge knows the verdict of. A pod may have hundreds of thousands of flows cut, and the log names ten
// reasons.
const remembered = 10_000

// why says which pods and policies have cut those flows of the round that were not cut in the round
// before, the most frequent first.
func (r *revocations) why(denied func(nft.HookPoint, policy.Packet) string) []Denial {
	r.mu.Lock()
	defer r.mu.Unlock()
	return denialsOf(r.now, denied, r.before)
}

// denialsOf says why flows are cut that were not cut before.
func denialsOf(cut *denials, denied func(nft.HookPoint, policy.Packet) string, before ...*denials) (all []Denial) {
	flows := map[string]int{}
	for flow := range cut.flows {
		was := slices.ContainsFunc(before, func(known *denials) bool { _, is := known.flows[flow]; return is })
		if !was {
			// The reason is read from the table as it is by now, which may let the flow pass again.
			flows[cmp.Or(denied(flow.hook, flow.packet), "by what has changed since")]++
		}
	}
	for by, n := range flows {
		all = append(all, Denial{By: by, Flows: n})
	}
	slices.SortFunc(all, func(a, b Denial) int { return cmp.Or(cmp.Compare(b.Flows, a.Flows), cmp.Compare(a.By, b.By)) })
	return all
}
