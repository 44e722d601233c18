package controllers_test

import (
	"net/netip"
	"sync/atomic"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/test/recorder"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/policy"
)

var _ = Describe("Established flows, of which a commit fails,", func() {
	It("stay cut while commits fail", func(ctx SpecContext) {
		judged := &judgedFlows{packet: policy.Packet{
			Src: netip.MustParseAddr("10.244.1.9"), Dst: netip.MustParseAddr("10.244.1.1"), Protocol: policy.TCP, DstPort: 80, HopLimit: 64,
		}}
		var refuse atomic.Bool
		kernel := &recorder.Kernel{Before: func(int) error {
			if refuse.Load() {
				return errRefused
			}
			return nil
		}}
		started := run(kernel, agent.Options{Node: "node", Manifests: GinkgoT().TempDir(), Flows: judged})
		started.awaitReady()
		isolatePods(started)
		judged.fail.Store(true) // so that flows are judged again without a commit
		feedPod(started, 1)
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		Eventually(judged.passed.Load, soon, often).Should(BeFalse())

		refuse.Store(true)
		feedPod(started, 2)
		Eventually(started.metricOf("podfence_commits_total", "result=error"), soon, often).Should(BeNumerically(">", 0))
		calls := judged.calls.Load()
		Eventually(judged.calls.Load, soon, often).Should(BeNumerically(">", calls+1))
		Expect(judged.passed.Load()).To(BeFalse(), "a flow that policy has cut must not go on because the kernel refuses something else")
	})
})
