package enforcer

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/recorder"
)

// rehearsed is an enforcer with a pod and a policy that denies it all, which is staged or not.
type rehearsed struct {
	*Enforcer
	// kernel has the policies' table, and staged the staged one, which removed says how often it was removed.
	kernel, staged recorder.Kernel
	removed        atomic.Int32
	troubles       atomic.Int32
	last           atomic.Value // the last Rehearsed
}

func (r *rehearsed) policy(staged bool) policy.Change {
	return policy.SetPolicy(policy.Policy{
		Key: policy.Key{Namespace: "shop", Name: "deny"}, Staged: staged, Subject: &policy.Selector{Namespace: "shop"}, Isolates: [2]bool{true, false},
	})
}

// rehearse runs an enforcer on a clock of its own.
func rehearse(t *testing.T, then func(*WithT, *rehearsed)) {
	synctest.Test(t, func(t *testing.T) {
		r := &rehearsed{}
		r.Enforcer = New(&r.kernel, Options{Node: "node", Ruleset: ruleset.Options{LogGroup: 1, RevokedMark: 1}, Staged: &Staged{
			Kernel: &r.staged, Uninstall: func() error { r.removed.Add(1); return nil },
		}, Report: func(o Outcome) {
			switch o := o.(type) {
			case Troubled:
				r.troubles.Add(1)
			case Rehearsed:
				r.last.Store(o)
			}
		}})
		web := pod("web")
		web.IPs = []netip.Addr{netip.MustParseAddr("10.244.1.7")}
		r.Feed(policy.SetNamespace(policy.Namespace{Name: "shop"}), policy.SetPod(web), policy.Synced())
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- r.Start(ctx) }()
		synctest.Wait()
		then(NewWithT(t), r)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestStaged: a policy that is staged changes nothing of the policies' table, and makes the staged one. In force, it is
// in the policies' table in one transaction, and the staged table is removed.
func TestStaged(t *testing.T) {
	rehearse(t, func(g *WithT, r *rehearsed) {
		g.Expect(r.removed.Load()).To(BeEquivalentTo(1), "what an earlier agent may have left is not removed")
		before := texts(&r.kernel)
		g.Expect(before).NotTo(BeEmpty())

		r.Feed(r.policy(true))
		synctest.Wait()
		g.Expect(texts(&r.kernel)).To(Equal(before), "a staged policy changes the policies' table")
		g.Expect(texts(&r.staged)).To(ContainSubstring("shop/web"))
		g.Expect(r.last.Load()).To(Equal(Rehearsed{Policies: 1, Pods: 1}))
		g.Expect(r.StagedPolicies()).To(HaveLen(1))

		plans := len(r.staged.Plans())
		other := pod("other")
		other.IPs = []netip.Addr{netip.MustParseAddr("10.244.1.8")}
		r.Feed(policy.SetPod(other))
		synctest.Wait()
		g.Expect(len(r.staged.Plans())).To(BeNumerically(">", plans), "the staged table does not follow")

		n := len(r.kernel.Plans())
		r.Feed(r.policy(false))
		synctest.Wait()
		g.Expect(r.kernel.Plans()).To(HaveLen(n+1), "it does not come into force in one transaction")
		g.Expect(strings.TrimPrefix(texts(&r.kernel), before)).To(And(ContainSubstring("shop/web"), ContainSubstring("shop/other")))
		g.Expect(r.removed.Load()).To(BeEquivalentTo(2))
		g.Expect(r.last.Load()).To(Equal(Rehearsed{}))
		g.Expect(r.StagedPolicies()).To(BeEmpty())

		r.Feed(r.policy(true))
		synctest.Wait()
		g.Expect(r.last.Load()).To(Equal(Rehearsed{Policies: 1, Pods: 2}))
	})
}

// TestStagedByNamespace: a namespace stages its policies, and has them in force again.
func TestStagedByNamespace(t *testing.T) {
	rehearse(t, func(g *WithT, r *rehearsed) {
		r.Feed(r.policy(false))
		synctest.Wait()
		enforced := texts(&r.kernel)
		r.Feed(policy.SetNamespace(policy.Namespace{Name: "shop", Staged: true}))
		synctest.Wait()
		g.Expect(strings.TrimPrefix(texts(&r.kernel), enforced)).To(ContainSubstring("delete chain inet podfence ingress-"))
		g.Expect(r.last.Load()).To(Equal(Rehearsed{Policies: 1, Pods: 1}))
		opened := texts(&r.kernel)
		r.Feed(policy.SetNamespace(policy.Namespace{Name: "shop"}))
		synctest.Wait()
		g.Expect(strings.TrimPrefix(texts(&r.kernel), opened)).To(ContainSubstring("add chain inet podfence ingress-"))
		g.Expect(r.last.Load()).To(Equal(Rehearsed{}))
	})
}

// TestStagedFails: whatever fails of the staged table, what is enforced is committed, and the agent is ready.
func TestStagedFails(t *testing.T) {
	rehearse(t, func(g *WithT, r *rehearsed) {
		r.staged.Fail(errors.New("no memory"))
		r.Feed(r.policy(true))
		synctest.Wait()
		n := len(r.kernel.Plans())
		r.Feed(policy.SetPolicy(policy.Policy{Key: policy.Key{Namespace: "shop", Name: "other"}, Subject: &policy.Selector{Namespace: "shop"}, Isolates: [2]bool{false, true}}))
		synctest.Wait()
		g.Expect(r.kernel.Plans()).To(HaveLen(n + 1))
		g.Expect(r.Ready()).To(Succeed())
		g.Expect(r.troubles.Load()).To(BeNumerically(">", 0), "nobody is told")

		r.staged.Fail(nil)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		g.Expect(r.last.Load()).To(Equal(Rehearsed{Policies: 1, Pods: 1}))
	})
}
