package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/test/recorder"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

var errRefused = errors.New("the kernel said no")

var _ = Describe("Commits", func() {
	// No API server, and no manifests either: the specs feed the model.
	idle := func(kernel *recorder.Kernel) *running {
		GinkgoHelper()
		started := run(kernel, agent.Options{Node: "node", Manifests: GinkgoT().TempDir()})
		started.awaitReady()
		Expect(kernel.Plans()).To(HaveLen(1))
		Expect(kernel.Plans()[0].Replace).To(BeTrue())
		return started
	}

	It("happen at once when idle, and gather what comes in meanwhile", func(ctx SpecContext) {
		began, proceed := make(chan int, 100), make(chan struct{})
		kernel := &recorder.Kernel{Before: func(n int) error {
			if n > 1 { // the first is the start's
				began <- n
				<-proceed
			}
			return nil
		}}
		started := idle(kernel)
		DeferCleanup(func() { close(proceed) })

		feedPod(started, 0)
		Eventually(began, soon, often).Should(Receive(Equal(2)))
		for i := range 100 {
			feedPod(started, i+1)
		}
		Consistently(began, while, often).ShouldNot(Receive(), "one at a time")

		proceed <- struct{}{}
		Eventually(began, soon, often).Should(Receive(Equal(3)))
		proceed <- struct{}{}
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		Consistently(began, while, often).ShouldNot(Receive(), "nothing was left for a third")

		plans := kernel.Plans()
		Expect(plans).To(HaveLen(3))
		Expect(podsAdded(plans[1])).To(Equal(1))
		Expect(podsAdded(plans[2])).To(Equal(100))
		Expect(plans[2].Replace).To(BeFalse())
	})

	It("do not happen when nothing has changed", func(ctx SpecContext) {
		kernel := &recorder.Kernel{}
		started := idle(kernel)
		feedPod(started, 1)
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		Expect(kernel.Attempts()).To(Equal(2))
		feedPod(started, 1)
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		Expect(kernel.Attempts()).To(Equal(2))
		Expect(started.metric("podfence_commits_total", "result=success")).To(BeEquivalentTo(2))
	})

	It("that fail are reported, and followed by a replacement", func(ctx SpecContext) {
		const failures = 4
		var refuse atomic.Bool
		proceed := make(chan struct{})
		kernel := &recorder.Kernel{Before: func(n int) error {
			if n > 1 && n <= 1+failures {
				return errRefused
			}
			if n == 2+failures {
				<-proceed // time to look while it is failing
			}
			if refuse.Load() {
				return errRefused
			}
			return nil
		}}
		started := idle(kernel)
		DeferCleanup(func() { close(proceed) })
		Expect(started.metric("podfence_commits_total", "result=error")).To(BeNumerically("<=", 0))

		feedPod(started, 1)
		Eventually(started.metricOf("podfence_commits_total", "result=error"), soon, often).Should(BeEquivalentTo(failures))
		Expect(started.readyz()).To(Equal(http.StatusInternalServerError))
		Expect(started.healthz()).To(Equal(http.StatusOK), "a restart would not help")
		Expect(started.Enforcer.Ready()).To(MatchError(errRefused))
		Expect(kernel.Plans()).To(HaveLen(1))

		// Who waits for a commit in vain learns why.
		err := started.Enforcer.Sync(within(ctx, while))
		Expect(err).To(MatchError(errRefused))

		feedPod(started, 2)
		proceed <- struct{}{}
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		Expect(started.readyz()).To(Equal(http.StatusOK))
		Expect(started.Enforcer.Ready()).To(Succeed())
		Expect(started.metric("podfence_commits_total", "result=error")).To(BeEquivalentTo(failures))
		repair := kernel.Plans()[1]
		Expect(repair.Replace).To(BeTrue(), "what the kernel holds is not known any more")
		last := kernel.Plans()[len(kernel.Plans())-1]
		Expect(podsAdded(repair) + podsIf(last, !last.Replace)).To(Equal(2))
		Expect(delays(started)).To(HaveLen(failures))
		Expect(increasing(delays(started))).To(BeTrue(), "%v", delays(started))

		// After a success, changes are small again, and so are the delays.
		feedPod(started, 3)
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		last = kernel.Plans()[len(kernel.Plans())-1]
		Expect(last.Replace).To(BeFalse())
		Expect(podsAdded(last)).To(Equal(1))
		refuse.Store(true)
		feedPod(started, 4)
		Eventually(func() int { return len(delays(started)) }, soon, often).Should(BeNumerically(">", failures))
		Expect(delays(started)[failures]).To(BeNumerically("<", delays(started)[failures-1]))
	})

	It("are waited for by Sync as long as its context lasts", func(ctx SpecContext) {
		stuck := make(chan struct{})
		kernel := &recorder.Kernel{Before: func(n int) error {
			if n > 1 {
				<-stuck
			}
			return nil
		}}
		started := idle(kernel)
		Expect(started.Enforcer.Sync(ctx)).To(Succeed(), "all that was fed is committed")

		feedPod(started, 1)
		reason := errors.New("the caller has gone")
		waiting, leave := context.WithCancelCause(ctx)
		result := make(chan error, 1)
		go func() { result <- started.Enforcer.Sync(waiting) }()
		Consistently(result, while, often).ShouldNot(Receive())
		leave(reason)
		Eventually(result, soon, often).Should(Receive(MatchError(reason)))

		go func() { result <- started.Enforcer.Sync(ctx) }()
		Consistently(result, while, often).ShouldNot(Receive())
		close(stuck)
		Eventually(result, soon, often).Should(Receive(BeNil()))
	})
})

// feedPod tells the agent of the i-th pod of its node.
func feedPod(started *running, i int) {
	started.Enforcer.Feed(policy.SetPod(&policy.Pod{
		Key: policy.Key{Namespace: "shop", Name: fmt.Sprintf("pod-%d", i)}, Node: "node",
		IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, byte(i)})},
	}))
}

// podsAdded counts the pods that a plan puts into the kernel.
func podsAdded(plan nft.Plan) (n int) {
	for _, op := range plan.Ops {
		if add, is := op.(nft.AddVerdicts); is && add.Map == "ingress-pods-4" {
			n += len(add.Entries)
		}
	}
	return n
}

func podsIf(plan nft.Plan, counts bool) int {
	if !counts {
		return 0
	}
	return podsAdded(plan)
}

// within bounds a wait.
func within(ctx context.Context, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(ctx, d)
	DeferCleanup(cancel)
	return ctx
}

var retryAfter = regexp.MustCompile(`"retryAfter"="([^"]+)"`)

// delays are those that the agent said it would wait after failed commits.
func delays(started *running) (all []time.Duration) {
	for _, line := range started.log.With("Cannot commit") {
		if match := retryAfter.FindStringSubmatch(line); match != nil {
			delay, err := time.ParseDuration(match[1])
			Expect(err).NotTo(HaveOccurred())
			all = append(all, delay)
		}
	}
	return all
}

func increasing(all []time.Duration) bool {
	for i := range all[1:] {
		if all[i] >= all[i+1] {
			return false
		}
	}
	return true
}
