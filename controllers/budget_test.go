package controllers_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/test/recorder"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// widePolicy is a policy of the namespace bank whose selectors mean all pods but one each.
func widePolicy(name string, selectors int) policy.Policy {
	var peers []policy.Selector
	for i := range selectors {
		peers = append(peers, policy.Selector{Pods: fmt.Sprintf("%s!=%d", name, i)})
	}
	return policy.Policy{
		Key: policy.Key{Namespace: "bank", Name: name}, Subject: &policy.Selector{Namespace: "bank"}, Isolates: [2]bool{true, false},
		Rules: [2][]policy.Rule{{{Peers: peers, AnyPort: true}}},
	}
}

// feedCrowd feeds pods of the namespace bank, of which the first is the node's.
func feedCrowd(started *running, pods int) {
	changes := []policy.Change{policy.SetNamespace(policy.Namespace{Name: "bank"})}
	for i := range pods {
		changes = append(changes, policy.SetPod(&policy.Pod{
			Key: policy.Key{Namespace: "bank", Name: fmt.Sprint(i)}, Node: []string{"node", "other"}[min(i, 1)],
			IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})},
		}))
	}
	started.Enforcer.Feed(changes...)
}

// elementsAdded is how many elements of sets a plan adds.
func elementsAdded(plan nft.Plan) (n int) {
	for _, op := range plan.Ops {
		if add, is := op.(nft.AddElements); is {
			n += len(add.Elements)
		}
	}
	return n
}

var _ = Describe("What a namespace may take", func() {
	It("is a limit to its own policies alone", func(ctx SpecContext) {
		kernel := &recorder.Kernel{}
		started := run(kernel, agent.Options{Node: "node", Manifests: GinkgoT().TempDir(), NamespaceBudget: 20_000})
		started.awaitReady()
		feedCrowd(started, 1000)
		feedPod(started, 1)
		feedPolicy(started, "good", 80)
		set := func(p policy.Policy) { started.Enforcer.Feed(policy.SetPolicy(p)) }
		set(widePolicy("small", 1))
		set(widePolicy("huge", 500))
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		over := func() float64 { return started.metric("podfence_policies_over_budget") }
		Expect(over()).To(BeEquivalentTo(1))
		Expect(started.metric("podfence_policies_refused")).To(BeZero())
		Expect(started.log.With("bank/huge")).To(HaveLen(1))
		Expect(started.readyz()).To(Equal(http.StatusOK))
		Expect(inForce(kernel)).To(ContainElement("good"))
		Expect(started.metric("podfence_table_elements")).To(BeNumerically("<", 5000))
		set(widePolicy("huge", 2))
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		Expect(over()).To(BeZero())
	})

	It("has come into force when who waits for it is told so", func(ctx SpecContext) {
		held, proceed := make(chan struct{}), make(chan struct{})
		var once sync.Once
		DeferCleanup(func() { once.Do(func() { close(proceed) }) })
		kernel := &recorder.Kernel{Will: func(plan nft.Plan) error {
			if slices.ContainsFunc(plan.Ops, func(op nft.Op) bool {
				rules, is := op.(nft.SetRules)
				return is && len(rules.Rules) >= 30
			}) {
				close(held)
				<-proceed
			}
			return nil
		}}
		started := run(kernel, agent.Options{Node: "node", Manifests: GinkgoT().TempDir()})
		started.awaitReady()
		feedCrowd(started, 5000)
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		started.Enforcer.Feed(policy.SetPolicy(widePolicy("many", 30)))
		Eventually(held, time.Minute, often).Should(BeClosed(), "the commit with its rules, in which no new change is")
		Expect(started.Enforcer.Sync(within(ctx, while))).NotTo(Succeed(), "the kernel has not taken them yet")
		once.Do(func() { close(proceed) })
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
	}, SpecTimeout(2*time.Minute))

	It("is committed in parts that keep nobody waiting", func(ctx SpecContext) {
		kernel := &recorder.Kernel{}
		started := run(kernel, agent.Options{Node: "node", Manifests: GinkgoT().TempDir()})
		started.awaitReady()
		feedCrowd(started, 5000)
		feedPod(started, 1)
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		before := len(kernel.Plans())
		started.Enforcer.Feed(policy.SetPolicy(widePolicy("many", 60)))
		feedPod(started, 2)
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		plans := kernel.Plans()[before:]
		Expect(len(plans)).To(BeNumerically(">", 60))
		Expect(podsAdded(plans[0])+podsAdded(plans[1])).To(BeNumerically(">", 0), "a pod need not wait")
		for _, plan := range plans {
			Expect(elementsAdded(plan)).To(BeNumerically("<", 6000))
			Expect(plan.Replace).To(BeFalse())
		}
		last := plans[len(plans)-1]
		Expect(slices.ContainsFunc(last.Ops, func(op nft.Op) bool {
			rules, is := op.(nft.SetRules)
			return is && len(rules.Rules) >= 60
		})).To(BeTrue(), "its rules come last")
	}, SpecTimeout(2*time.Minute))
})
