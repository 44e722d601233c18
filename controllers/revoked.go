package controllers

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
)

// judged is what a flow is judged by; flows between the same two, to the same port, are one.
type judged struct {
	hook   ruleset.HookPoint
	packet policy.Packet
}

// revocations tell what a round of judging has cut from what was cut before.
type revocations struct{ before, now map[judged]struct{} }

// round begins a round, whose judge it returns.
func (r *revocations) round(passes func(ruleset.HookPoint, policy.Packet) bool) func(ruleset.HookPoint, policy.Packet) bool {
	r.before, r.now = r.now, map[judged]struct{}{}
	return func(hook ruleset.HookPoint, p policy.Packet) bool {
		passed := passes(hook, p)
		if !passed && len(r.now) < remembered {
			r.now[judged{hook, p}] = struct{}{}
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
	counts := map[string]int{}
	for flow := range r.now {
		if _, cut := r.before[flow]; !cut {
			counts[denied(flow.hook, flow.packet)]++
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
