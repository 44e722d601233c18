package controllers

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/ruleset/nft"
)

func TestRepairsArePaused(t *testing.T) {
	var r repairs
	now := time.Now()
	for round := range 2 {
		var pauses []time.Duration
		for range atOnce + 12 {
			pause := r.next(now)
			pauses = append(pauses, pause)
			now = now.Add(pause + time.Millisecond)
		}
		for i, pause := range pauses {
			switch {
			case i < atOnce && pause != 0:
				t.Errorf("round %d: repair %d waits %s", round, i+1, pause)
			case i == atOnce && pause != 50*time.Millisecond:
				t.Errorf("round %d: the first in a fight waits %s", round, pause)
			case i > atOnce && pause < pauses[i-1], pause > 5*time.Second:
				t.Errorf("round %d: the pauses are %v", round, pauses)
			}
		}
		if last := pauses[len(pauses)-1]; last != 5*time.Second {
			t.Errorf("round %d: the longest pause is %s", round, last)
		}
		if pause := r.next(r.last.Add(quiet - time.Second)); pause == 0 {
			t.Errorf("round %d: the fight is over before it has been quiet", round)
		}
		now = now.Add(2*quiet + time.Second)
	}
}

// After a failed commit the table is built anew, even if somebody has interfered.
func TestRepairAfterFailure(t *testing.T) {
	kernel, watch := &told{}, &noticing{}
	e := newEnforcer(kernel, Options{Node: "node", Log: logr.Discard(), Watch: watch}, newMetrics(prometheus.NewRegistry()), nil)
	for _, step := range []struct {
		fail, tamper, undone bool // undone: what is in the kernel next is the table, done again
	}{
		{}, {tamper: true, undone: true}, {}, {fail: true}, {tamper: true}, {}, {tamper: true, undone: true, fail: true}, {tamper: true}, {},
	} {
		kernel.fail = nil
		if step.fail {
			kernel.fail = errors.New("the kernel said no")
		}
		if step.tamper {
			watch.once = []nft.Tampering{{}}
		}
		e.repairs = repairs{} // no fight
		if err := e.distrust(t.Context()); err != nil {
			t.Fatal(err)
		}
		if e.undone != step.undone {
			t.Fatalf("%+v: undone is %v", step, e.undone)
		}
		if step.fail { // an empty plan would not fail
			e.known = e.known && step.undone
		}
		if err := e.commit(); (err != nil) != step.fail {
			t.Fatalf("%+v: %v", step, err)
		}
		if e.known == step.fail || e.undone {
			t.Fatalf("%+v: afterwards known is %v, undone %v", step, e.known, e.undone)
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

// plans is a Kernel that keeps what it is told.
type plans []nft.Plan

func (k *plans) Apply(plan nft.Plan) error {
	*k = append(*k, plan)
	return nil
}

func (k *plans) Check(nft.Plan) error { return nil }

func TestRepairsBothTables(t *testing.T) {
	kernel, watch := &plans{}, &noticing{}
	o := Options{Node: "node", Log: logr.Discard(), Watch: watch, CNI: &CNI{Bridge: &Bridge{
		Kernel: kernel, Gateway: func(p netip.Prefix) netip.Addr { return p.Addr().Next() },
	}}}
	e := newEnforcer(kernel, o, newMetrics(prometheus.NewRegistry()), nil)
	commit := func(want int) {
		t.Helper()
		*kernel = nil
		if err := e.distrust(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := e.commit(); err != nil {
			t.Fatal(err)
		}
		if len(*kernel) != want {
			t.Fatalf("%d plans, want %d", len(*kernel), want)
		}
		for i, family := range []nft.Family{nft.Inet, nft.Bridge}[:want] {
			if plan := (*kernel)[i]; plan.Family != family || !plan.Replace {
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
