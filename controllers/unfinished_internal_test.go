package controllers

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// slow is a kernel that takes a second for a trial, and does not say what it is that
// it refuses.
type slow struct {
	refusing
	// over: it refuses nothing any more, and no trial works.
	over atomic.Bool
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
		e := newEnforcer(kernel, Options{Node: "node", Log: logr.Discard()}, newMetrics(prometheus.NewRegistry()), nil)
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
		e.Begin()
		time.Sleep(searchTime + 2*time.Second)
		if n := closedPolicies(e); n < 2 {
			t.Errorf("%d policies are closed: the search has come to an end, this shows nothing", n)
		}
		then(t, e, kernel)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func closedPolicies(e *Enforcer) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.model.ClosedPolicies()
}

// TestSearchGoesOn: a search that was not finished is, also where there is never as
// long without a change as it is to wait.
func TestSearchGoesOn(t *testing.T) {
	unfinished(t, func(t *testing.T, e *Enforcer, _ *slow) {
		for range 10 * 60 {
			time.Sleep(time.Second / 2)
			e.Feed()
		}
		if n := closedPolicies(e); n != 1 {
			t.Errorf("%d policies are closed after five minutes, want the one to blame", n)
		}
	})
}

// TestFailedSearchIsTold: what was closed for the time being, and is opened by a
// search that fails, is reported as open.
func TestFailedSearchIsTold(t *testing.T) {
	unfinished(t, func(t *testing.T, e *Enforcer, kernel *slow) {
		g := NewWithT(t)
		problems := map[policy.Key]int{} // as last reported
		read := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer close(read)
			for {
				select {
				case <-ctx.Done():
					return
				case about := <-e.refusals.events:
					key := client.ObjectKeyFromObject(about.Object)
					e.mu.Lock()
					problems[key] = len(e.model.Problems(key))
					e.mu.Unlock()
				}
			}
		}()
		synctest.Wait()
		kernel.over.Store(true)
		time.Sleep(time.Minute)
		cancel()
		<-read
		g.Expect(closedPolicies(e)).To(BeZero())
		g.Expect(len(problems)).To(BeNumerically(">", 1))
		g.Expect(problems).To(HaveEach(0))
	})
}

// TestNothingToResume: a search that another has finished meanwhile is no reason to
// build the table anew.
func TestNothingToResume(t *testing.T) {
	g := NewWithT(t)
	kernel := &told{}
	e := newEnforcer(kernel, Options{Node: "node", Log: logr.Discard()}, newMetrics(prometheus.NewRegistry()), nil)
	g.Expect(e.commit()).To(Succeed())
	g.Expect(e.known).To(BeTrue())
	g.Expect(e.resume()).To(Succeed())
	g.Expect(e.known).To(BeTrue())
}
