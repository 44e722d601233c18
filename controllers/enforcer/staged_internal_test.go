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
	"github.com/podfence/podfence/ruleset/nft"
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
	flows          openFlowsOf
	told           []nft.Logged
	revoke         atomic.Int32 // flows that would be cut
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
			Flows: &r.flows, Tell: func(l nft.Logged) { r.told = append(r.told, l) },
		}, Report: func(o Outcome) {
			switch o := o.(type) {
			case Troubled:
				r.troubles.Add(1)
			case Rehearsed:
				r.last.Store(o)
			case WouldRevoke:
				r.revoke.Add(int32(o.Flows))
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

// TestStagedEnds: a staged ClusterNetworkPolicy selects a pod with the staged policies in force, and only then.
func TestStagedEnds(t *testing.T) {
	rehearse(t, func(g *WithT, r *rehearsed) {
		src, dst := netip.MustParseAddr("10.244.2.9"), netip.MustParseAddr("10.244.1.7")
		g.Expect(r.StagedEndsOf(src, dst)).To(Equal(r.EndsOf(src, dst)), "none is staged")
		fence := policy.Policy{Key: policy.Key{Name: "fence"}, Tier: policy.AdminTier, Subject: &policy.Selector{Namespace: "shop"}, Staged: true}
		r.Feed(policy.SetPolicy(fence))
		synctest.Wait()
		g.Expect(r.EndsOf(src, dst).Dst.ClusterPolicies).To(BeEmpty())
		g.Expect(r.StagedEndsOf(src, dst).Dst.ClusterPolicies).To(Equal([]policy.Key{fence.Key}))
		g.Expect(r.StagedEndsOf(src, dst).Revision).To(Equal(r.EndsOf(src, dst).Revision))
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

// openFlowsOf are flows that connection tracking has.
type openFlowsOf struct {
	packets []policy.Packet
	asked   int
	fails   int // how many times more it fails
}

func (f *openFlowsOf) WouldCut(_ context.Context, _ uint32, asIs, wouldBe func(nft.HookPoint, policy.Packet) bool, tell func(nft.OpenFlow)) (int, error) {
	if f.fails > 0 {
		f.fails--
		return 0, errors.New("no buffers")
	}
	f.asked++
	for _, p := range f.packets {
		if asIs(nft.Forward, p) && !wouldBe(nft.Forward, p) {
			tell(nft.OpenFlow{Packet: p, JudgedBy: p, Hook: nft.Forward})
		}
	}
	return len(f.packets), nil
}

// TestStagedFlows: established flows that would be cut are told once when a policy is staged, and not again by what
// comes to other pods; and none by a policy that is in force.
func TestStagedFlows(t *testing.T) {
	rehearse(t, func(g *WithT, r *rehearsed) {
		to := func(addr string) policy.Packet {
			return policy.Packet{Src: netip.MustParseAddr("10.244.2.9"), Dst: netip.MustParseAddr(addr), Protocol: policy.TCP, DstPort: 80, HopLimit: 64}
		}
		r.flows.packets = []policy.Packet{to("10.244.1.7"), to("10.244.9.9")}
		r.Feed(r.policy(true))
		time.Sleep(time.Minute)
		synctest.Wait()
		g.Expect(r.told).To(HaveLen(1))
		g.Expect(r.told[0].Packet.Dst).To(Equal(r.flows.packets[0].Dst))
		g.Expect(r.revoke.Load()).To(BeEquivalentTo(1))
		denial := r.DenialOf(r.told[0])
		g.Expect(denial.Policies).To(HaveLen(1))
		g.Expect(denial.Policies[0].Name).To(Equal("deny"))
		g.Expect(denial.Policies[0].Staged).To(BeTrue())

		other := pod("other")
		other.IPs = []netip.Addr{netip.MustParseAddr("10.244.1.8")}
		r.Feed(policy.SetPod(other))
		time.Sleep(time.Minute)
		synctest.Wait()
		g.Expect(r.flows.asked).To(Equal(1), "flows are looked at for a pod that is new")

		r.Feed(r.policy(false))
		time.Sleep(time.Minute)
		synctest.Wait()
		g.Expect(r.told).To(HaveLen(1))
	})
}

// TestStagedFlowsOfFailures: if a transaction fails that stages a policy, or connection tracking cannot be read, the
// flows are judged once that has been made good.
func TestStagedFlowsOfFailures(t *testing.T) {
	rehearse(t, func(g *WithT, r *rehearsed) {
		to := policy.Packet{Src: netip.MustParseAddr("10.244.2.9"), Dst: netip.MustParseAddr("10.244.1.7"), Protocol: policy.TCP, DstPort: 80, HopLimit: 64}
		r.flows.packets = []policy.Packet{to}
		elsewhere := policy.SetPolicy(policy.Policy{Key: policy.Key{Namespace: "bank", Name: "deny"}, Staged: true, Subject: &policy.Selector{Namespace: "bank"}, Isolates: [2]bool{true, false}})
		r.Feed(policy.SetNamespace(policy.Namespace{Name: "bank"}), elsewhere)
		time.Sleep(time.Minute)
		synctest.Wait()
		g.Expect(r.told).To(BeEmpty())

		r.staged.Fail(errors.New("no memory"))
		r.Feed(r.policy(true))
		synctest.Wait()
		g.Expect(r.told).To(BeEmpty())
		r.flows.fails = 2
		r.staged.Fail(nil)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		g.Expect(r.told).To(HaveLen(1))
		g.Expect(r.flows.fails).To(BeZero())
	})
}

// TestWouldBeAtAddressOfTwoPods: what is denied at an address that two pods have would be allowed only if a staged policy
// is about both of them.
func TestWouldBeAtAddressOfTwoPods(t *testing.T) {
	rehearse(t, func(g *WithT, r *rehearsed) {
		allow := func(namespace string) policy.Change {
			return policy.SetPolicy(policy.Policy{
				Key: policy.Key{Namespace: namespace, Name: "allow"}, Staged: true, Subject: &policy.Selector{Namespace: namespace}, Isolates: [2]bool{true, false},
				Rules: [2][]policy.Rule{{{AnyPeer: true, AnyPort: true}}},
			})
		}
		other := pod("other")
		other.Namespace, other.IPs = "bank", []netip.Addr{netip.MustParseAddr("10.244.1.7")}
		r.Feed(policy.SetNamespace(policy.Namespace{Name: "bank"}), policy.SetPod(other), r.policy(false), allow("shop"))
		synctest.Wait()
		denied := nft.Logged{Family: nft.Inet, Hook: nft.Forward, Prefix: "denied-ingress-4", Packet: nft.TracePacket{Packet: policy.Packet{
			Src: netip.MustParseAddr("10.244.2.9"), Dst: netip.MustParseAddr("10.244.1.7"), Protocol: policy.TCP, DstPort: 80, HopLimit: 64,
		}}}
		g.Expect(r.WouldBe(denied, policy.Ingress).Rehearsed).To(BeFalse(), "nothing is worked out of one of the pods")
		r.Feed(allow("bank"))
		synctest.Wait()
		g.Expect(r.WouldBe(denied, policy.Ingress).Allowed()).To(BeTrue())
	})
}
