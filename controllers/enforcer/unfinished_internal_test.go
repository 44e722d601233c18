package enforcer

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/recorder"
)

// slow is a kernel that takes a second for a trial, and does not say what it is that
// it refuses.
type slow struct {
	refusing
	// over: it refuses nothing any more, and no trial works.
	over atomic.Bool

	mu sync.Mutex
	// problems are how many each policy has, as was last reported.
	problems map[policy.Key]int
}

func (k *slow) note(keys []policy.Key, e *Enforcer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.problems == nil {
		k.problems = map[policy.Key]int{}
	}
	for _, key := range keys {
		k.problems[key] = len(e.Problems(key))
	}
}

func (k *slow) reported() map[policy.Key]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.problems)
}

func (k *slow) Apply(plan nft.Plan) error {
	if k.over.Load() {
		return nil
	}
	return k.check(plan)
}

func (k *slow) Check(plan nft.Plan) error {
	time.Sleep(time.Second)
	if k.over.Load() {
		return errors.New("cannot allocate memory")
	}
	return k.check(plan)
}

// unfinished has an enforcer search, on a clock of its own, for one policy of forty,
// which takes longer than a search may; then it calls then.
func unfinished(t *testing.T, then func(*testing.T, *Enforcer, *slow)) {
	synctest.Test(t, func(t *testing.T) {
		const n = 40
		kernel := &slow{refusing: refusing{in: policies(n), bad: []policy.Key{policyKey(13)}}}
		var e *Enforcer
		e = New(kernel, Options{Node: "node", Report: func(o Outcome) {
			if q, is := o.(Quarantined); is {
				kernel.note(slices.Concat(q.Refused, q.Untried, q.Released), e)
			}
		}})
		e.Feed(policy.SetPod(&policy.Pod{
			Key: policy.Key{Namespace: "shop", Name: "web"}, Node: "node", IPs: []netip.Addr{netip.MustParseAddr("10.244.1.7")},
		}))
		for _, p := range kernel.in.Policies {
			p.Subject = &policy.Selector{Namespace: "shop"}
			e.Feed(policy.SetPolicy(p))
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- e.Start(ctx) }()
		e.Feed(policy.Synced())
		time.Sleep(searchTime + 2*time.Second)
		if n := quarantined(e); n < 2 {
			t.Errorf("%d policies are quarantined: the search has come to an end, this shows nothing", n)
		}
		then(t, e, kernel)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func quarantined(e *Enforcer) int {
	e.inbox.mu.Lock()
	defer e.inbox.mu.Unlock()
	return e.inbox.model.Quarantined()
}

// TestSearchGoesOn: a search that was not finished is, also where there is never as
// long without a change as it is to wait.
func TestSearchGoesOn(t *testing.T) {
	unfinished(t, func(t *testing.T, e *Enforcer, _ *slow) {
		for range 10 * 60 {
			time.Sleep(time.Second / 2)
			e.Feed()
		}
		if n := quarantined(e); n != 1 {
			t.Errorf("%d policies are quarantined after five minutes, want the one to blame", n)
		}
	})
}

// TestFailedSearchIsReported: what was quarantined for the time being, and is released by a
// search that fails, is reported as released.
func TestFailedSearchIsReported(t *testing.T) {
	unfinished(t, func(t *testing.T, e *Enforcer, kernel *slow) {
		g := NewWithT(t)
		kernel.over.Store(true)
		time.Sleep(time.Minute)
		g.Expect(quarantined(e)).To(BeZero())
		problems := kernel.reported()
		g.Expect(len(problems)).To(BeNumerically(">", 1))
		g.Expect(problems).To(HaveEach(0))
	})
}

// TestNothingToResume: a search that another has finished meanwhile is no reason to
// build the table anew.
func TestNothingToResume(t *testing.T) {
	g := NewWithT(t)
	kernel := &recorder.Kernel{}
	e := New(kernel, Options{Node: "node"})
	g.Expect(e.loop.commit()).To(Succeed())
	g.Expect(e.loop.trust).To(Equal(known))
	g.Expect(e.loop.resumeSearch()).To(Succeed())
	g.Expect(e.loop.trust).To(Equal(known))
}
