package enforcer

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/recorder"
)

// TestRules: whoever asks for the rules gets those that the kernel holds, and none while a transaction is
// under way, after one that has failed, or where somebody else has changed the table; and is told when they
// were in force no longer. Committed says up to which change.
func TestRules(t *testing.T) {
	var e *Enforcer
	var committed []uint64
	failed := errors.New("the kernel says no")
	failing := 2
	kernel := &recorder.Kernel{Before: func(n int) error {
		if _, held := e.Rules(); held {
			t.Errorf("transaction %d is under way, and there are rules", n)
		}
		if n == failing {
			return failed
		}
		return nil
	}}
	e = New(kernel, Options{Node: "node", Report: func(o Outcome) {
		switch o := o.(type) {
		case Committed:
			committed = append(committed, o.Fed)
		case Failed:
			if _, held := e.Rules(); held {
				t.Error("a transaction has failed, and there are rules")
			}
		}
	}})
	if _, held := e.Rules(); held {
		t.Error("nothing is committed, and there are rules")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ended := make(chan error)
	go func() { ended <- e.Start(ctx) }()
	first := e.Feed(policy.Synced())
	if err := e.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	rules, held := e.Rules()
	if !held || !e.Held(rules) || len(rules.Chains) == 0 {
		t.Fatalf("all is committed, and held is %t, still %t, with %d chains", held, e.Held(rules), len(rules.Chains))
	}
	web := pod("web")
	web.IPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, 7})}
	second := e.Feed(policy.SetPod(web), policy.SetNamespace(policy.Namespace{Name: "shop"}), policy.SetPolicy(policy.Policy{
		Key: policy.Key{Namespace: "shop", Name: "deny"}, Subject: &policy.Selector{Namespace: "shop"}, Isolates: [2]bool{true, true},
	}))
	if err := e.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	if e.Held(rules) {
		t.Error("other rules have been committed, and the old ones are still there")
	}
	now, held := e.Rules()
	if !held || len(now.Chains) <= len(rules.Chains) {
		t.Errorf("after the change, held is %t, with %d chains after %d", held, len(now.Chains), len(rules.Chains))
	}
	e.policies.doubt()
	if _, held := e.Rules(); held || e.Held(now) {
		t.Error("somebody else has changed the table, and there are rules")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := len(committed); n < 2 || committed[0] < first || committed[n-1] < second || second <= first {
		t.Errorf("fed %d and %d, committed %v", first, second, committed)
	}
}
