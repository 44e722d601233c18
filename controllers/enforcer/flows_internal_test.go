package enforcer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/recorder"
)

// slowFlows is connection tracking that takes a while to be gone through.
type slowFlows struct {
	takes  time.Duration
	fails  atomic.Bool
	starts []time.Duration // since the start of the test
	began  time.Time
	some   []string // which addresses RevokeOf was asked for, and when
}

func (*slowFlows) Forget([]netip.Addr) error { return nil }

func (f *slowFlows) Revoke(func(nft.HookPoint, policy.Packet) bool) (revoked, restored int, err error) {
	f.starts = append(f.starts, time.Since(f.began))
	time.Sleep(f.takes)
	if f.fails.Load() {
		return 0, 0, errors.New("the list was interrupted")
	}
	return 0, 0, nil
}

func (f *slowFlows) RevokeOf(addrs []netip.Addr, _ func(nft.HookPoint, policy.Packet) bool) (revoked, restored int, err error) {
	f.some = append(f.some, fmt.Sprint(time.Since(f.began), addrs))
	time.Sleep(someTake)
	if f.fails.Load() {
		return 0, 0, errors.New("the list was interrupted")
	}
	return 0, 0, nil
}

// someTake is how long slowFlows takes for those of some addresses.
const someTake = 10 * time.Millisecond

// judging runs judgeAll on a clock of its own, and returns when it began each time.
func judging(t *testing.T, flows *slowFlows, commits func(commit func())) (starts []time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := New(&recorder.Kernel{}, Options{Node: "node", Flows: flows})
		ctx, cancel := context.WithCancel(t.Context())
		flows.began = time.Now()
		go e.flows.judgeAll(ctx)
		commits(func() {
			signal(e.flows.all)
			synctest.Wait()
		})
		cancel()
		synctest.Wait()
		starts = flows.starts
	})
	return starts
}

// TestFlowsAreJudgedAtOnce: after a quietTime time, at the very commit; once more for what
// that may have missed; and then no more.
func TestFlowsAreJudgedAtOnce(t *testing.T) {
	starts := judging(t, &slowFlows{takes: 30 * time.Millisecond}, func(commit func()) {
		for range 2 {
			time.Sleep(time.Hour)
			commit()
		}
		time.Sleep(time.Hour)
	})
	want := []time.Duration{time.Hour, time.Hour + recheckDelay, 2 * time.Hour, 2*time.Hour + recheckDelay}
	if !slices.Equal(starts, want) {
		t.Errorf("judged at %v, want %v", starts, want)
	}
}

// TestFlowsArePaced: while commits follow each other, judging takes a tenth of a
// processor, or leaves judgePause in between; no commit waits longer than that and what is
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
		period := takes + min(9*takes, judgePause)
		for i, start := range starts[1:] {
			// A commit may come up to every after the judging could begin.
			if gap := start - starts[i]; start < busy && (gap < period || gap > period+every) {
				t.Errorf("of %s each: one begins %s after the last, want %s", takes, gap, period)
				break
			}
		}
		if last := starts[len(starts)-1]; last < busy || last > busy+3*max(period, recheckDelay) {
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

// TestAffectedFlowsAreJudgedBeside: what a commit is about is judged at once, though all flows
// are gone through at that time; those follow, but not all the time.
func TestAffectedFlowsAreJudgedBeside(t *testing.T) {
	const all = 2 * time.Second
	flows := &slowFlows{takes: all}
	synctest.Test(t, func(t *testing.T) {
		e := New(&recorder.Kernel{}, Options{Node: "node", Flows: flows})
		ctx, cancel := context.WithCancel(t.Context())
		flows.began = time.Now()
		go e.flows.judgeAll(ctx)
		go e.flows.judgeAffected(ctx)
		commit := func(last ...byte) {
			closes := map[netip.Addr]bool{}
			for _, last := range last {
				closes[netip.AddrFrom4([4]byte{10, 0, 0, last})] = true
			}
			e.flows.affected.add(closes)
			synctest.Wait()
		}
		time.Sleep(time.Hour)
		commit(1)
		commit(2, 3) // while those of the first are judged
		commit(3, 4)
		time.Sleep(recheckDelay + all/2)
		commit(5) // while all are
		time.Sleep(time.Hour)
		commit() // about nobody's flows
		time.Sleep(time.Hour)
		flows.fails.Store(true)
		commit(6)
		time.Sleep(2 * someTake)
		flows.fails.Store(false)
		time.Sleep(time.Hour)
		cancel()
		synctest.Wait()
	})
	const hour = time.Hour
	third, fourth := 2*hour+recheckDelay+all/2, 3*hour+recheckDelay+all/2
	wantSome := []string{
		fmt.Sprint(hour, " [10.0.0.1]"), fmt.Sprint(hour+10*someTake, " [10.0.0.2 10.0.0.3 10.0.0.4]"),
		fmt.Sprint(hour+recheckDelay+all/2, " [10.0.0.5]"), fmt.Sprint(fourth, " [10.0.0.6]"),
	}
	first := hour + recheckDelay
	wantAll := []time.Duration{first, first + all + maxJudgePause, third + recheckDelay, fourth + someTake, fourth + someTake + all + judgePause}
	if !slices.Equal(flows.some, wantSome) {
		t.Errorf("some are judged at %v, want %v", flows.some, wantSome)
	}
	if !slices.Equal(flows.starts, wantAll) {
		t.Errorf("all are judged at %v, want %v", flows.starts, wantAll)
	}
}

// TestWhatOnlyOpens: where a commit only lets more pass, the kernel is asked for the flows of
// those addresses alone of which one may be cut: by an earlier agent, until all flows have been
// judged, in the last round of all or this one, or in one of some.
func TestWhatOnlyOpens(t *testing.T) {
	flows := &slowFlows{}
	addr := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, last}) }
	deny := func(judge func(nft.HookPoint, policy.Packet) bool, last byte) {
		judge(nft.Forward, policy.Packet{Src: addr(100), Dst: addr(last)})
	}
	none := func(nft.HookPoint, policy.Packet) bool { return false }
	synctest.Test(t, func(t *testing.T) {
		e := New(&recorder.Kernel{}, Options{Node: "node", Flows: flows})
		ctx, cancel := context.WithCancel(t.Context())
		flows.began = time.Now()
		go e.flows.judgeAffected(ctx)
		commit := func(closes map[netip.Addr]bool) {
			e.flows.affected.add(closes)
			time.Sleep(time.Minute)
		}
		opened := map[netip.Addr]bool{addr(1): false, addr(2): false, addr(3): false, addr(4): false}
		commit(opened) // nothing is known yet
		deny(e.flows.cut.round(none), 9)
		commit(opened) // nor while the first round goes on
		deny(e.flows.cut.round(none), 1)
		commit(opened)
		deny(e.flows.cut.round(none), 2)
		commit(opened)
		judge, why := e.flows.cut.partialRound(none)
		deny(judge, 3)
		why(func(nft.HookPoint, policy.Packet) string { return "" })
		commit(opened)
		commit(map[netip.Addr]bool{addr(4): false})
		commit(map[netip.Addr]bool{addr(4): true})
		e.flows.affected.mu.Lock() // two commits before the flows of the first are judged
		e.flows.affected.closes[addr(4)] = true
		e.flows.affected.mu.Unlock()
		commit(map[netip.Addr]bool{addr(4): false})
		e.flows.cut.round(none)
		judge = e.flows.cut.round(none)
		commit(opened)
		for port := range uint16(remembered) {
			judge(nft.Forward, policy.Packet{Src: addr(100), Dst: addr(101), DstPort: port})
		}
		commit(opened) // there are too many to know
		cancel()
		synctest.Wait()
	})
	all := " [10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4]"
	want := []string{
		"0s" + all, "1m0s" + all, "2m0s [10.0.0.1]", "3m0s [10.0.0.1 10.0.0.2]", "4m0s [10.0.0.1 10.0.0.2 10.0.0.3]",
		"6m0s [10.0.0.4]", "7m0s [10.0.0.4]", "9m0s" + all,
	}
	if !slices.Equal(flows.some, want) {
		t.Errorf("judged were\n%q, want\n%q", flows.some, want)
	}
}
