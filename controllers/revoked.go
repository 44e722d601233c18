package controllers

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
)

// judged is what a flow is judged by; flows between the same two, to the same port, are one.
type judged struct {
	hook   ruleset.HookPoint
	packet policy.Packet
}

// revocations tell what a round of judging has cut from what was cut before.
type revocations struct {
	mu sync.Mutex
	// before and now are what the last round of all flows and this one have found denied,
	// and what rounds of some did meanwhile.
	before, now map[judged]struct{}
}

// round begins a round of all flows, whose judge it returns.
func (r *revocations) round(passes func(ruleset.HookPoint, policy.Packet) bool) func(ruleset.HookPoint, policy.Packet) bool {
	r.mu.Lock()
	r.before, r.now = r.now, map[judged]struct{}{}
	now := r.now
	r.mu.Unlock()
	return r.noting(now, passes)
}

// some begins a round of some flows beside, and returns its judge, and its why.
func (r *revocations) some(passes func(ruleset.HookPoint, policy.Packet) bool) (
	judge func(ruleset.HookPoint, policy.Packet) bool, why func(denied func(ruleset.HookPoint, policy.Packet) string) []string,
) {
	cut := map[judged]struct{}{}
	return r.noting(cut, passes), func(denied func(ruleset.HookPoint, policy.Packet) string) []string {
		r.mu.Lock()
		defer r.mu.Unlock()
		texts := reasons(cut, denied, r.before, r.now)
		for _, known := range []*map[judged]struct{}{&r.before, &r.now} {
			if *known == nil {
				*known = map[judged]struct{}{}
			}
			maps.Copy(*known, cut)
		}
		return texts
	}
}

// noting is a judge that notes what it denies.
func (r *revocations) noting(cut map[judged]struct{}, passes func(ruleset.HookPoint, policy.Packet) bool) func(ruleset.HookPoint, policy.Packet) bool {
	return func(hook ruleset.HookPoint, p policy.Packet) bool {
		passed := passes(hook, p)
		if !passed {
			r.mu.Lock()
			defer r.mu.Unlock()
			if len(cut) < remembered {
				cut[judged{hook, p}] = struct{}{}
			}
		}
		return passed
	}
}

// remembered is how many flows of a round are: one pod may have hundreds of thousands cut,
// and the log names ten reasons.
const remembered = 10_000

// named is how many are named in a line of the log.
const named = 10

// why says which pods and policies have cut the flows of the round that were not cut in the
// one before, most frequent first: "egress of shop/web-0, by shop/deny (3)".
func (r *revocations) why(denied func(ruleset.HookPoint, policy.Packet) string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return reasons(r.now, denied, r.before)
}

// reasons are why flows are cut that were not so before.
func reasons(cut map[judged]struct{}, denied func(ruleset.HookPoint, policy.Packet) string, before ...map[judged]struct{}) []string {
	counts := map[string]int{}
	for flow := range cut {
		was := slices.ContainsFunc(before, func(known map[judged]struct{}) bool { _, is := known[flow]; return is })
		if !was {
			// It is told from the table as it is by now, which may let the flow pass again.
			counts[cmp.Or(denied(flow.hook, flow.packet), "by what has changed since")]++
		}
	}
	texts := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(counts[b]-counts[a], strings.Compare(a, b))
	})
	for i, text := range texts[:min(len(texts), named)] {
		texts[i] = fmt.Sprintf("%s (%d)", text, counts[text])
	}
	return short(texts)
}

// short is a list of which a line of the log names the first only.
func short(texts []string) []string {
	if more := len(texts) - named; more > 0 {
		return append(texts[:named:named], fmt.Sprintf("and %d more", more))
	}
	return texts
}

// denied says who denies a flow, by the table as it is.
func (e *Enforcer) denied(hook ruleset.HookPoint, p policy.Packet) string {
	e.tableMu.RLock()
	defer e.tableMu.RUnlock()
	if e.table == nil {
		return ""
	}
	return e.table.Denied(e.table.Trace(hook, ruleset.TracePacket{Packet: p, State: ruleset.New}))
}
