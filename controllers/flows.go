package controllers

import (
	"context"
	"net/netip"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
)

// Flows judges established flows anew: those that the judge does not let pass
// are cut, those that it does again go on.
type Flows interface {
	Revoke(judge func(ruleset.HookPoint, policy.Packet) bool) (revoked, restored int, err error)
	// Forget ends all flows of the addresses. It may be called at any time.
	Forget(addrs []netip.Addr) error
}

// judgeFlows has established flows judged anew after each commit, until ctx is
// done. It runs beside the commits: listing many flows takes longer than one. A
// commit after a quiet time is followed at once; where one follows the other, it
// takes a tenth of a processor at most, and a flow is cut flowsPause later.
//
// Once more flowsAgain after the last commit: a packet may have been judged by the
// rules before it, and its flow entered into connection tracking only after that was
// listed, as it does so when it leaves the node. In between another CPU may have
// handled it, or somebody else's queue have kept it (NFQUEUE). The kernel does not
// say when the last of them is through. See also kernel.Flows.Revoke.
func (e *Enforcer) judgeFlows(ctx context.Context) {
	var again <-chan time.Time
	var cut revocations
	for {
		committed := true
		select {
		case <-ctx.Done():
			return
		case <-e.judge:
		case <-again:
			select {
			case <-e.judge:
			default:
				committed, again = false, nil
			}
		}
		if committed {
			again = time.After(flowsAgain)
		}
		began := time.Now()
		revoked, restored, err := e.flows.Revoke(cut.round(e.passes))
		pause := min(9*time.Since(began), flowsPause)
		e.metrics.judged(revoked, restored)
		if revoked+restored > 0 {
			e.log.Info("Judged established flows anew", "revoked", revoked, "restored", restored, "denied", cut.why(e.denied))
		}
		if err != nil {
			e.log.Error(err, "Cannot judge all established flows; trying again", "retryAfter", flowsRetry.String())
			time.AfterFunc(flowsRetry, func() { signal(e.judge) })
		}
		if !committed {
			continue // what is committed next has no part in it, and is not to wait for it
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

const (
	flowsRetry = time.Second
	flowsPause = 500 * time.Millisecond
	flowsAgain = 500 * time.Millisecond
)

// passes reports whether the table lets a new connection pass. Without a table
// nothing is known, and nothing is cut.
func (e *Enforcer) passes(hook ruleset.HookPoint, p policy.Packet) bool {
	e.tableMu.RLock()
	defer e.tableMu.RUnlock()
	return e.table == nil || e.table.Trace(hook, ruleset.TracePacket{Packet: p, State: ruleset.New}).Verdict == ruleset.Accept
}
