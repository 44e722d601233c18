package enforcer

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// Flows judges established flows again. Those that the judge does not let pass are cut. Those
// that were cut, and that it lets pass again, go on.
type Flows interface {
	Revoke(judge func(nft.HookPoint, policy.Packet) bool) (revoked, restored int, err error)
	// RevokeOf judges those of the addresses only, and may be called beside Revoke.
	RevokeOf(addrs []netip.Addr, judge func(nft.HookPoint, policy.Packet) bool) (revoked, restored int, err error)
}

// judge has established flows judged again after each commit. It runs beside the commits.
type judge struct {
	flows  Flows
	table  *sharedTable
	report func(Outcome)
	// all holds one token while all established flows may have to be judged again. affected are
	// the addresses whose flows have to be judged again.
	all      chan struct{}
	affected affected
	// cut are the flows that judging has revoked.
	cut revocations
}

func newJudge(flows Flows, table *sharedTable, report func(Outcome)) *judge {
	return &judge{flows: flows, table: table, report: report, all: make(chan struct{}, 1), affected: newAffected(), cut: newRevocations()}
}

// committed has the flows judged that a commit may concern: those of the affected addresses, or all
// flows if affected is nil or the table was replaced.
func (j *judge) committed(replaced bool, affected map[netip.Addr]bool) {
	if replaced || affected == nil {
		signal(j.all)
	} else {
		j.affected.add(affected)
	}
}

// judgeAffected judges, after each commit, the flows that the commit may concern, until ctx is
// done. It runs beside the commits, and beside judgeAll. What it takes does not depend on how many
// flows others have, so when a flow is cut does not depend on that either. After a quiet time it
// follows a commit at once. While commits follow each other, it takes a tenth of a processor at
// most, and cuts a flow up to judgePause later.
func (j *judge) judgeAffected(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-j.affected.pending:
		}
		began := time.Now()
		addrs := j.affected.take(j.cut.mayBeOf)
		if len(addrs) == 0 {
			continue
		}
		judge, why := j.cut.partialRound(j.table.judge())
		revoked, restored, err := j.flows.RevokeOf(addrs, judge)
		j.judged(revoked, restored, why)
		if err != nil {
			j.report(Troubled{What: "Cannot judge the established flows of what has changed; judging all", Err: err, Addresses: len(addrs)})
			signal(j.all)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(9*time.Since(began), judgePause)):
		}
	}
}

// judgeAll judges all established flows, until ctx is done. It does so at once if a commit may
// concern all of them. Otherwise it does so a while after the commit, for the flows that
// judgeAffected cannot see. It takes a tenth of a processor at most, or leaves judgePause between
// two rounds, or maxJudgePause if judgeAffected has seen the flows already.
//
// It judges them once more recheckDelay after the last commit. A packet may have been judged by the
// rules from before the commit, and its flow may have entered connection tracking only after that
// was listed, because a flow enters it when the packet leaves the node. In between another CPU may
// have been handling the packet, or somebody else's queue may have kept it (NFQUEUE). The kernel
// does not say when the last such packet is through. See also kernel.Flows.Revoke.
func (j *judge) judgeAll(ctx context.Context) {
	var recheck <-chan time.Time
	// All flows have to be judged at wanted or later. While only judgeAffected's commits call for
	// that, they are left alone until rested.
	var wanted, rested time.Time
	soon := func() <-chan time.Time { return time.After(max(recheckDelay, time.Until(rested))) }
	for {
		all := false
		select {
		case <-ctx.Done():
			return
		case <-j.affected.committed:
			if wanted = time.Now().Add(recheckDelay); recheck == nil {
				recheck = soon()
			}
			continue
		case <-j.all:
			all = true
		case <-recheck:
			recheck = nil
			select {
			case <-j.all:
				all = true
			default:
			}
		}
		began := time.Now()
		if all {
			wanted, recheck = began.Add(recheckDelay), time.After(recheckDelay)
		}
		revoked, restored, err := j.flows.Revoke(j.cut.round(j.table.judge()))
		took := time.Since(began)
		j.judged(revoked, restored, j.cut.why)
		if err != nil {
			j.report(Troubled{What: "Cannot judge all established flows; trying again", Err: err, RetryAfter: judgeRetry})
			time.AfterFunc(judgeRetry, func() { signal(j.all) })
		}
		if rested = time.Now().Add(min(9*took, maxJudgePause)); recheck == nil && began.Before(wanted) {
			recheck = soon()
		}
		if !all {
			continue // the next commit did not cause this round, and shall not wait for it
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(9*took, judgePause)):
		}
	}
}

// judged reports what has become of flows, if any were cut or go on again.
func (j *judge) judged(revoked, restored int, why func(denied func(nft.HookPoint, policy.Packet) string) []Denial) {
	if revoked+restored > 0 {
		j.report(Revoked{Revoked: revoked, Restored: restored, Denied: why(j.table.denied)})
	}
}

// affected are the addresses that commits were about and whose flows are not judged yet. For each
// it says whether one of its flows may have to be cut.
type affected struct {
	mu     sync.Mutex
	closes map[netip.Addr]bool
	// pending holds a token while there are such addresses. committed holds one after a commit.
	pending, committed chan struct{}
}

func newAffected() affected {
	return affected{closes: map[netip.Addr]bool{}, pending: make(chan struct{}, 1), committed: make(chan struct{}, 1)}
}

// add takes in what a commit was about.
func (a *affected) add(closes map[netip.Addr]bool) {
	a.mu.Lock()
	for addr, close := range closes {
		a.closes[addr] = a.closes[addr] || close
	}
	a.mu.Unlock()
	if len(closes) > 0 {
		signal(a.pending)
	}
	signal(a.committed)
}

// take takes all addresses out. It returns those with a flow that may have to be cut, or that may
// be cut and may have to go on.
func (a *affected) take(mayBeCut func(netip.Addr) bool) (addrs []netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for addr, close := range a.closes {
		if close || mayBeCut(addr) {
			addrs = append(addrs, addr)
		}
	}
	clear(a.closes)
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

const (
	judgeRetry   = time.Second
	judgePause   = 500 * time.Millisecond
	recheckDelay = 500 * time.Millisecond
	// maxJudgePause is how long all flows are left alone at most while commits concern only some.
	maxJudgePause = 10 * time.Second
)
