package controllers_test

import (
	"fmt"

	"github.com/podfence/podfence/agent"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("An API server that does not take Events", func() {
	It("delays no policy, and is told later", func(ctx SpecContext) {
		w := newWorld()
		w.namespace("shop", nil)
		w.namespace("other", set{"friend": "yes"})
		web, _ := w.pod("shop", "web", set{"app": "web"})
		client, _ := w.pod("shop", "client", set{"app": "client"})
		webhook := newGate("events")
		started := run(w.kernel, agent.Options{Node: w.node, API: webhook.guard(agentUser), Watch: w.watch})
		started.awaitReady()
		w.eventually(ctx, arrive(client, web, 80))

		const problems = 40
		for i := range problems {
			w.store("other", fmt.Sprint("broken-", i), brokenExcept)
		}
		Eventually(webhook.waiting, soon, often).Should(BeTrue())
		Eventually(started.metricOf("podfence_policy_problems"), soon, often).Should(BeEquivalentTo(2 * problems))
		w.policy("shop", "web", onlyFriends)
		w.eventually(ctx, lost(client, web, 80))
		Expect(w.events(ctx, "other")).To(BeEmpty())

		// One that is put right meanwhile is not complained of later.
		w.policy("other", "broken-7", onlyFriends)
		Eventually(started.metricOf("podfence_policy_problems"), soon, often).Should(BeEquivalentTo(2 * (problems - 1)))
		webhook.open()
		Eventually(w.events, soon, often).WithArguments(ctx, "other").Should(HaveLen(problems - 1))
		Consistently(w.events, while, often).WithArguments(ctx, "other").Should(HaveLen(problems - 1))
	})
})
