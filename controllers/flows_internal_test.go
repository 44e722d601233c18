package controllers

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
)

// slowFlows is connection tracking that takes a while to be gone through.
type slowFlows struct {
	takes  time.Duration
	fails  atomic.Bool
	starts []time.Duration // since the start of the test
	began  time.Time
}

func (*slowFlows) Forget([]netip.Addr) error { return nil }

func (f *slowFlows) Revoke(func(ruleset.HookPoint, policy.Packet) bool) (revoked, restored int, err error) {
	f.starts = append(f.starts, time.Since(f.began))
	time.Sleep(f.takes)
	if f.fails.Load() {
		return 0, 0, errors.New("the list was interrupted")
	}
	return 0, 0, nil
}

// judging runs judgeFlows on a clock of its own, and returns when it began each time.
func judging(t *testing.T, flows *slowFlows, commits func(commit func())) (starts []time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := newEnforcer(&told{}, Options{Node: "node", Log: logr.Discard(), Flows: flows}, newMetrics(prometheus.NewRegistry()), nil)
		ctx, cancel := context.WithCancel(t.Context())
		flows.began = time.Now()
		go e.judgeFlows(ctx)
		commits(func() {
			signal(e.judge)
			synctest.Wait()
		})
		cancel()
		synctest.Wait()
		starts = flows.starts
	})
	return starts
}

// TestFlowsAreJudgedAtOnce: after a quiet time, at the very commit; once more for what
// that may have missed; and then no more.
func TestFlowsAreJudgedAtOnce(t *testing.T) {
	starts := judging(t, &slowFlows{takes: 30 * time.Millisecond}, func(commit func()) {
		for range 2 {
			time.Sleep(time.Hour)
			commit()
		}
		time.Sleep(time.Hour)
	})
	want := []time.Duration{time.Hour, time.Hour + flowsAgain, 2 * time.Hour, 2*time.Hour + flowsAgain}
	if !slices.Equal(starts, want) {
		t.Errorf("judged at %v, want %v", starts, want)
	}
}

// TestFlowsArePaced: while commits follow each other, judging takes a tenth of a
// processor, or leaves flowsPause in between; no commit waits longer than that and what is
// under way; and the last is followed by one that began later.
func TestFlowsArePaced(t *testing.T) {
	for _, takes := range []time.Duration{time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond} {
		const busy, every = 30 * time.Second, 7 * time.Millisecond
		starts := judging(t, &slowFlows{takes: takes}, func(commit func()) {
			for range busy / every {
				commit()
				time.Sleep(every)
			}
			time.Sleep(time.Minute)
		})
		period := takes + min(9*takes, flowsPause)
		for i, start := range starts[1:] {
			// A commit may come up to every after the judging could begin.
			if gap := start - starts[i]; start < busy && (gap < period || gap > period+every) {
				t.Errorf("of %s each: one begins %s after the last, want %s", takes, gap, period)
				break
			}
		}
		if last := starts[len(starts)-1]; last < busy || last > busy+3*max(period, flowsAgain) {
			t.Errorf("of %s each: the last begins at %s, though commits end at %s", takes, last, busy)
		}
	}
}

// TestFlowsAreJudgedAgainAfterAnError: a second later, until it succeeds.
func TestFlowsAreJudgedAgainAfterAnError(t *testing.T) {
	flows := &slowFlows{}
	flows.fails.Store(true)
	starts := judging(t, flows, func(commit func()) {
		commit()
		time.Sleep(10 * time.Second)
		flows.fails.Store(false)
		synctest.Wait()
		time.Sleep(time.Hour)
	})
	if len(starts) < 10 || starts[len(starts)-1] > 12*time.Second {
		t.Errorf("judged at %v", starts)
	}
}
