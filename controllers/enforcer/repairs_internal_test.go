package enforcer

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/recorder"
)

func TestRepairsArePaused(t *testing.T) {
	var r Repairs
	now := time.Now()
	for round := range 2 {
		var pauses []time.Duration
		for range RepairsAtOnce + 12 {
			pause := r.Next(now)
			pauses = append(pauses, pause)
			now = now.Add(pause + time.Millisecond)
		}
		for i, pause := range pauses {
			switch {
			case i < RepairsAtOnce && pause != 0:
				t.Errorf("round %d: repair %d waits %s", round, i+1, pause)
			case i == RepairsAtOnce && pause != 50*time.Millisecond:
				t.Errorf("round %d: the first in a fight waits %s", round, pause)
			case i > RepairsAtOnce && pause < pauses[i-1], pause > 5*time.Second:
				t.Errorf("round %d: the pauses are %v", round, pauses)
			}
		}
		if last := pauses[len(pauses)-1]; last != 5*time.Second {
			t.Errorf("round %d: the longest pause is %s", round, last)
		}
		if pause := r.Next(r.last.Add(quietTime - time.Second)); pause == 0 {
			t.Errorf("round %d: the fight is over before it has been quietTime", round)
		}
		now = now.Add(2*quietTime + time.Second)
	}
}

// After a failed commit the table is built anew, even if somebody has interfered.
func TestRepairAfterFailure(t *testing.T) {
	kernel, watch := &recorder.Kernel{}, &noticing{}
	e := New(kernel, Options{Node: "node", Watch: watch})
	for _, step := range []struct {
		fail, tamper, undone bool // undone: what is in the kernel next is the table, done again
	}{
		{}, {tamper: true, undone: true}, {}, {fail: true}, {tamper: true}, {}, {tamper: true, undone: true, fail: true}, {tamper: true}, {},
	} {
		kernel.Fail(nil)
		if step.fail {
			kernel.Fail(errors.New("the kernel said no"))
		}
		if step.tamper {
			watch.once = []nft.Tampering{{}}
		}
		e.loop.repairs = repairs{} // no fight
		if err := e.loop.notice(t.Context()); err != nil {
			t.Fatal(err)
		}
		if isUndone := e.loop.trust == undone; isUndone != step.undone {
			t.Fatalf("%+v: undone is %v", step, isUndone)
		}
		if step.fail && e.loop.trust == known { // an empty plan would not fail
			e.loop.trust = unknown
		}
		if err := e.loop.commit(); (err != nil) != step.fail {
			t.Fatalf("%+v: %v", step, err)
		}
		if want := map[bool]trust{true: unknown, false: known}[step.fail]; e.loop.trust != want {
			t.Fatalf("%+v: afterwards the trust is %v, want %v", step, e.loop.trust, want)
		}
	}
}

// noticing is a Watch that has noticed something once.
type noticing struct{ once []nft.Tampering }

func (w *noticing) Tampered() <-chan struct{} { return nil }

func (w *noticing) Take() (noticed []nft.Tampering, err error) {
	noticed, w.once = w.once, nil
	return noticed, nil
}

func TestRepairsBothTables(t *testing.T) {
	kernel, watch := &recorder.Kernel{}, &noticing{}
	o := Options{Node: "node", Watch: watch, Bridge: &Bridge{
		Kernel: kernel, Gateway: func(p netip.Prefix) netip.Addr { return p.Addr().Next() },
	}}
	e := New(kernel, o)
	commit := func(want int) {
		t.Helper()
		kernel.Forget()
		if err := e.loop.notice(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := e.loop.commit(); err != nil {
			t.Fatal(err)
		}
		if len(kernel.Plans()) != want {
			t.Fatalf("%d plans, want %d", len(kernel.Plans()), want)
		}
		for i, family := range []nft.Family{nft.Inet, nft.Bridge}[:want] {
			if plan := kernel.Plans()[i]; plan.Family != family || !plan.Replace {
				t.Errorf("plan %d is of family %v, and replaces is %v", i+1, plan.Family, plan.Replace)
			}
		}
	}
	commit(2)
	commit(0)
	watch.once = []nft.Tampering{{Changes: []string{"delete table bridge podfence"}}}
	commit(2)
	commit(0)
}
