package controllers_test

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/test/recorder"
)

var _ = Describe("A policy that cannot be meant", func() {
	It("is reported once for the whole cluster, after a minute, and not if it goes before", func(ctx SpecContext) {
		c := newCluster()
		c.namespace("shop", nil)
		c.pod("shop", "web", set{"app": "website"})
		c.policy("shop", "wrong", `{podSelector: {matchLabels: {app: webiste}}}`)
		c.policy("shop", "port", `{podSelector: {}, ingress: [{ports: [{port: htpp}]}]}`)
		c.policy("shop", "early", `{podSelector: {matchLabels: {app: later}}}`)
		short := c.policy("shop", "short", `{podSelector: {matchLabels: {app: websitee}}}`)
		c.policy("shop", "right", onlyClients)

		now := clocktesting.NewFakeClock(time.Now())
		agents := []*running{
			run(&recorder.Kernel{}, agent.Options{Node: c.node, API: agentUser, Clock: now}),
			run(&recorder.Kernel{}, agent.Options{Node: c.node + "-b", API: agentUser, Clock: now}),
		}
		for _, a := range agents {
			a.awaitReady()
		}
		findings := func() (said map[string]string) {
			said = map[string]string{}
			var all corev1.EventList
			Expect(admin.List(context.Background(), &all, client.InNamespace(c.name("shop")))).To(Succeed())
			for _, event := range all.Items {
				if event.Reason == report.ReasonMatchesNothing {
					said[event.InvolvedObject.Name] += event.Message
				}
			}
			return said
		}
		Eventually(now.HasWaiters, soon, often).Should(BeTrue())
		// Two looks within a minute.
		for range 2 {
			now.Step(31 * time.Second)
			Consistently(findings, while, often).Should(BeEmpty())
		}
		known := agents[0].metric("podfence_policies", "active=false")
		remove(short)
		for _, a := range agents {
			Eventually(a.metricOf("podfence_policies", "active=false"), soon, often).Should(Equal(known - 1))
		}
		Eventually(func() map[string]string {
			now.Step(31 * time.Second)
			return findings()
		}, soon, 10*often).Should(HaveLen(2))
		for range 5 {
			now.Step(31 * time.Second)
			Consistently(findings, while, often).Should(Equal(map[string]string{
				"wrong": "spec.podSelector: the policy selects nothing: there are no pods with app=webiste of namespace " + c.name("shop") + ": 1 pod has app=website; did you mean that? [selects-nothing]",
				"port":  `spec.ingress[0].ports[0].port: none of the policy's pods has a port named "htpp" of protocol TCP; did you mean "http"? [named-port]`,
			}))
		}
		for _, a := range agents {
			Expect(a.log.With("somebody else is probably meant")).To(HaveLen(2))
		}
	})
})
