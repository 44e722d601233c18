package controllers_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/test/recorder"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// badPort is the port that the kernel of these specs has no liking for: it refuses a
// set that has it.
const badPort = 666

// dislikes refuses plans with badPort, by the operation or not.
func dislikes(names bool) func(nft.Plan) error {
	return func(plan nft.Plan) error {
		at := slices.IndexFunc(plan.Ops, func(op nft.Op) bool {
			add, is := op.(nft.AddElements)
			return is && slices.ContainsFunc(add.Elements, func(e nft.Element) bool { return e.First == badPort })
		})
		switch {
		case at < 0:
			return nil
		case names:
			return &nft.Refusal{Op: at, Err: errRefused}
		}
		return &nft.Refusal{Op: -1, Err: errRefused}
	}
}

// feedPolicy lets anybody reach the pods of the namespace shop by a port.
func feedPolicy(started *running, name string, port uint16) {
	started.Enforcer.Feed(policy.SetPolicy(allowing(name, port)))
}

func allowing(name string, port uint16) policy.Policy {
	return policy.Policy{
		Key:     policy.Key{Namespace: "shop", Name: name},
		Subject: &policy.Selector{Namespace: "shop"}, Isolates: [2]bool{true},
		Rules: [2][]policy.Rule{{{AnyPeer: true, Ports: []policy.PortRange{{Protocol: policy.TCP, First: port, Last: port}}}}},
	}
}

// inForce are the policies that have rules in the kernel, going by all plans.
func inForce(kernel *recorder.Kernel) []string {
	open := map[string]bool{}
	for _, plan := range kernel.Plans() {
		if plan.Replace {
			clear(open)
		}
		for _, op := range plan.Ops {
			switch op := op.(type) {
			case nft.SetRules:
				if _, name, is := strings.Cut(op.Chain, "-shop/"); is && strings.HasPrefix(op.Chain, "policy-") {
					open[name] = len(op.Rules) > 0
				}
			case nft.DeleteChain:
				if _, name, is := strings.Cut(op.Name, "-shop/"); is && strings.HasPrefix(op.Name, "policy-") {
					delete(open, name)
				}
			}
		}
	}
	var names []string
	for name, is := range open {
		if is {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

var _ = Describe("A policy that the kernel refuses", func() {
	begin := func(kernel *recorder.Kernel) *running {
		GinkgoHelper()
		started := run(kernel, agent.Options{Node: "node", Manifests: GinkgoT().TempDir()})
		started.awaitReady()
		feedPod(started, 1)
		return started
	}
	refused := func(started *running) float64 { return started.metric("podfence_policies_refused") }

	for _, names := range []bool{true, false} {
		how := map[bool]string{true: "by a name", false: "without a word"}[names]

		It("is closed, and all others are enforced, "+how, func(ctx SpecContext) {
			kernel := &recorder.Kernel{Will: dislikes(names)}
			started := begin(kernel)
			for i := range 9 {
				feedPolicy(started, fmt.Sprint("good-", i), uint16(80+i))
			}
			Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
			feedPolicy(started, "bad", badPort)
			feedPolicy(started, "good-9", 89)
			feedPod(started, 2)
			Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
			Expect(inForce(kernel)).To(And(HaveLen(10), Not(ContainElement("bad"))))
			last := kernel.Plans()[len(kernel.Plans())-1]
			Expect(last.Replace).To(BeTrue())
			Expect(podsAdded(last)).To(Equal(2))
			Expect(last.Ops).To(ContainElement(WithTransform(func(op nft.Op) bool {
				rules, is := op.(nft.SetRules)
				return is && strings.HasPrefix(rules.Chain, "policies-ingress-") && slices.ContainsFunc(rules.Rules, func(r nft.Rule) bool {
					return strings.HasSuffix(r.Verdict.Chain, "shop/bad")
				})
			}, BeTrue())), "it isolates its pods all the same")
			Expect(refused(started)).To(BeEquivalentTo(1))
			Expect(started.readyz()).To(Equal(http.StatusOK), "one policy is no reason to be down")
			Expect(started.log.With("The kernel refuses NetworkPolicies")).To(HaveLen(1))
			Expect(started.log.With("shop/bad")).To(HaveLen(1))
			Expect(started.metric("podfence_mismatches_total")).To(BeZero(), "it was not the update")

			// Nothing is tried again while it stays as it is.
			attempts, checks := kernel.Attempts(), kernel.Checked()
			feedPolicy(started, "bad", badPort)
			feedPod(started, 3)
			feedPolicy(started, "good-9", 99)
			Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
			Expect(kernel.Attempts()).To(BeNumerically("<=", attempts+3))
			Expect(kernel.Checked()).To(Equal(checks))
			Expect(kernel.Plans()[len(kernel.Plans())-1].Replace).To(BeFalse())

			By("putting it right")
			feedPolicy(started, "bad", 667)
			Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
			Expect(inForce(kernel)).To(ContainElement("bad"))
			Expect(refused(started)).To(BeZero())

			By("breaking it again, and deleting it")
			feedPolicy(started, "bad", badPort)
			Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
			Expect(inForce(kernel)).NotTo(ContainElement("bad"))
			Expect(refused(started)).To(BeEquivalentTo(1))
			started.Enforcer.Feed(policy.DeletePolicy(policy.Key{Namespace: "shop", Name: "bad"}))
			Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
			Expect(refused(started)).To(BeZero())
			Expect(inForce(kernel)).To(HaveLen(10))
		})

		It("is found among others like it, from the first commit on, "+how, func(ctx SpecContext) {
			kernel := &recorder.Kernel{Will: dislikes(names)}
			started := run(kernel, agent.Options{Node: "node", Manifests: GinkgoT().TempDir()})
			var changes []policy.Change
			for i := range 12 {
				changes = append(changes, policy.SetPolicy(allowing(fmt.Sprint("good-", i), uint16(80+i))))
			}
			for i := range 3 {
				changes = append(changes, policy.SetPolicy(allowing(fmt.Sprint("bad-", i), badPort)))
			}
			started.Enforcer.Feed(changes...)
			feedPod(started, 1)
			Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
			Expect(inForce(kernel)).To(And(HaveLen(12), HaveEach(HavePrefix("good-"))))
			Expect(refused(started)).To(BeEquivalentTo(3))
			started.awaitReady()
		})
	}

	It("is not blamed for an error of the moment", func(ctx SpecContext) {
		var moment atomic.Bool
		kernel := &recorder.Kernel{}
		kernel.Will = func(nft.Plan) error {
			if moment.Load() {
				return errors.New("cannot allocate memory")
			}
			return nil
		}
		started := begin(kernel)
		feedPolicy(started, "good", 80)
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		moment.Store(true)
		feedPolicy(started, "other", 81)
		Eventually(started.log.With, soon, often).WithArguments("Cannot commit").ShouldNot(BeEmpty())
		Expect(kernel.Checked()).To(BeZero())
		moment.Store(false)
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		Expect(inForce(kernel)).To(Equal([]string{"good", "other"}))
		Expect(refused(started)).To(BeZero())
	})

	It("is not blamed for what is no policy's", func(ctx SpecContext) {
		var refuse atomic.Bool
		kernel := &recorder.Kernel{}
		kernel.Will = func(nft.Plan) error {
			if refuse.Load() {
				return &nft.Refusal{Op: 0, Err: errRefused}
			}
			return nil
		}
		started := begin(kernel)
		feedPolicy(started, "good", 80)
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		refuse.Store(true)
		feedPod(started, 2)
		Eventually(started.log.With, soon, often).WithArguments("no policy is to blame").ShouldNot(BeEmpty())
		Expect(started.Enforcer.Ready()).To(MatchError(ContainSubstring("no policy is to blame")))
		Expect(started.readyz()).To(Equal(http.StatusInternalServerError))
		refuse.Store(false)
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		Expect(refused(started)).To(BeZero())
		Expect(inForce(kernel)).To(Equal([]string{"good"}))
	})

	It("is not blamed for an update that is wrong: that heals, and is seen", func(ctx SpecContext) {
		kernel := &recorder.Kernel{}
		kernel.Will = func(plan nft.Plan) error {
			if !plan.Replace {
				return &nft.Refusal{Op: 0, Err: errRefused}
			}
			return nil
		}
		started := begin(kernel)
		feedPolicy(started, "good", 80)
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		Expect(inForce(kernel)).To(Equal([]string{"good"}))
		Expect(kernel.Checked()).To(BeZero())
		Expect(started.metric("podfence_mismatches_total")).To(BeNumerically(">=", 1))
		Expect(started.log.With("not as podfence had left it")).NotTo(BeEmpty())
		Expect(refused(started)).To(BeZero())
		Expect(started.readyz()).To(Equal(http.StatusOK))
	})

	It("is reported by an Event, and packets fare accordingly", func(ctx SpecContext) {
		w := newWorld()
		w.kernel.Will = dislikes(true)
		w.namespace("shop", nil)
		web, _ := w.pod("shop", "web", set{"app": "web"})
		client, _ := w.pod("shop", "client", set{"app": "client"})
		started := w.watchCluster()
		w.eventually(ctx, arrive(client, web, 80))

		w.policy("shop", "bad", onlyClients+"  ports: [{port: 80}, {port: 666}]\n")
		w.eventually(ctx, lost(client, web, 80), arrive(web, client, 80))
		db, _ := w.pod("shop", "db", nil)
		w.eventually(ctx, arrive(client, db, 80), lost(client, web, 80))
		Eventually(w.events, soon, often).WithArguments(ctx, "shop").Should(HaveLen(1))
		event := w.events(ctx, "shop")[0]
		Expect(event.Type).To(Equal(corev1.EventTypeWarning))
		Expect(event.Reason).To(Equal(report.ReasonNotEnforceable))
		Expect(event.InvolvedObject.Name).To(Equal("bad"))
		Expect(event.Message).To(ContainSubstring("the kernel refuses it: " + errRefused.Error()))
		Eventually(started.metricOf("podfence_policy_problems"), soon, often).Should(BeEquivalentTo(1))
		Expect(started.readyz()).To(Equal(http.StatusOK))

		w.policy("shop", "bad", onlyClients+"  ports: [{port: 80}]\n")
		w.eventually(ctx, arrive(client, web, 80))
		Eventually(started.metricOf("podfence_policy_problems"), soon, often).Should(BeZero())
		Expect(refused(started)).To(BeZero())
	})

	It("is found by what the real kernel says", func(ctx SpecContext) {
		w := newWorld()
		started := run(w.kernel, agent.Options{Node: "node", Manifests: GinkgoT().TempDir()})
		started.awaitReady()
		feedPod(started, 1)
		feedPolicy(started, "good", 80)
		// A rule's blocks are disjoint where they come from, as no set may have both.
		bad := allowing("bad", 81)
		bad.Rules[policy.Ingress][0].AnyPeer = false
		bad.Rules[policy.Ingress][0].Blocks = []policy.AddrRange{
			{First: netip.MustParseAddr("10.0.0.0"), Last: netip.MustParseAddr("10.255.255.255")},
			{First: netip.MustParseAddr("10.1.0.0"), Last: netip.MustParseAddr("10.1.255.255")},
		}
		started.Enforcer.Feed(policy.SetPolicy(bad))
		feedPolicy(started, "later", 82)
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		Expect(inForce(w.kernel)).To(Equal([]string{"good", "later"}))
		Expect(w.kernel.Checked()).To(BeNumerically("<=", 3))
		Expect(started.log.With("The kernel refuses NetworkPolicies")).To(ConsistOf(And(ContainSubstring("shop/bad"), ContainSubstring("block-4-"))))
		Expect(w.table()).To(And(ContainSubstring("shop/bad {"), ContainSubstring("tcp . 82"), Not(ContainSubstring("tcp . 81"))))
	})
})
