package controllers_test

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"sync"
	"time"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/test/recorder"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/ruleset/nft"
)

var _ = Describe("What others do to the table", func() {
	It("is undone by one replacement, counted and reported", func(ctx SpecContext) {
		w := newWorld()
		w.giveRange(w.nodeObject())
		w.namespace("shop", nil)
		web, _ := w.pod("shop", "web", set{"app": "web"})
		denied, _ := w.pod("shop", "other", nil)
		w.policy("shop", "web", onlyClients)
		started := w.watchCluster()
		w.eventually(ctx, lost(denied, web, 80))
		before := w.table()
		Expect(started.metric("podfence_repairs_total")).To(BeZero(), "its own commits are nobody else's")

		for i, command := range []string{
			"delete table inet podfence",
			"flush ruleset",
			"flush chain inet podfence ingress-forward",
		} { // more in a row would be a fight
			done := len(w.kernel.Plans())
			w.nft(command)
			Eventually(started.metricOf("podfence_repairs_total"), soon, often).Should(BeEquivalentTo(i + 1))
			Expect(w.table()).To(Equal(before), command)
			repair := w.kernel.Plans()[done:]
			Expect(repair).To(HaveLen(1), command)
			Expect(repair[0].Replace).To(BeTrue())
		}
		w.always(ctx, lost(denied, web, 80))
		Expect(started.log.With("Somebody else has changed the table")).To(And(HaveLen(3), HaveEach(MatchRegexp(`"process"="nft" "pid"=[1-9]`))))
		Expect(started.log.With("Somebody else has changed the table")[0]).To(ContainSubstring(`"changes"="delete table inet podfence"`))
		Expect(started.metric("podfence_repairs_total")).To(BeEquivalentTo(3))
		Expect(w.nodeEvents(ctx)).To(ConsistOf(And(
			HaveField("Reason", report.ReasonTamperedWith), HaveField("Type", corev1.EventTypeWarning),
			HaveField("Message", MatchRegexp(`delete table inet podfence; by nft \(process \d+\)$`)),
		)))
	})

	It("backs off in a fight, and says with whom", func(ctx SpecContext) {
		w := newWorld()
		w.giveRange(w.nodeObject())
		w.namespace("shop", nil)
		started := w.watchCluster()
		before := w.table()
		for range 8 {
			repaired := started.metric("podfence_repairs_total")
			w.nft("delete table inet podfence")
			Eventually(started.metricOf("podfence_repairs_total"), soon, often).Should(BeNumerically(">", repaired))
		}
		Expect(w.table()).To(Equal(before))
		fought := started.log.With("Somebody else keeps changing the table")
		Expect(fought).To(And(HaveLen(5), HaveEach(ContainSubstring(`"process"="nft"`))))
		var pauses []time.Duration
		for _, line := range fought {
			pause, err := time.ParseDuration(regexp.MustCompile(`"after"="([^"]+)"`).FindStringSubmatch(line)[1])
			Expect(err).NotTo(HaveOccurred())
			pauses = append(pauses, pause)
		}
		Expect(increasing(pauses)).To(BeTrue(), "%v", pauses)
		Expect(w.nodeEvents(ctx)).To(ContainElement(HaveField("Message", ContainSubstring("over and over"))))
	})

	// No API server and no kernel: the specs play the watch.
	It("is repaired together with all that is noticed in the pause", func(ctx SpecContext) {
		kernel, watch := &recorder.Kernel{}, newScriptedWatch()
		started := run(kernel, agent.Options{Node: "node", Manifests: GinkgoT().TempDir(), Watch: watch})
		started.awaitReady()
		for range 7 {
			done := kernel.Attempts()
			watch.notice(nft.Tampering{Changes: []string{"delete table inet podfence"}, Process: "firewalld", PID: 7})
			Eventually(kernel.Attempts, soon, often).Should(Equal(done + 1))
		}
		done := kernel.Attempts() // the next pause is 0.8 s
		watch.notice(nft.Tampering{})
		Eventually(started.readyz, soon, often).Should(Equal(http.StatusInternalServerError), "what is undone is not in force")
		// It may have been so already by what was undone before.
		Eventually(started.Enforcer.Ready, soon, often).Should(MatchError(ContainSubstring("not known")))
		watch.notice(nft.Tampering{})
		feedPod(started, 1)
		Expect(kernel.Attempts()).To(Equal(done), "changes do not shorten the pause")
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		Expect(kernel.Attempts()).To(Equal(done + 1))
		last := kernel.Plans()[done]
		Expect(last.Replace).To(BeTrue())
		Expect(podsAdded(last)).To(Equal(1))
		Consistently(kernel.Attempts, while, often).Should(Equal(done + 1))
		Expect(started.Enforcer.Ready()).To(Succeed(), "all is in force")
		Expect(started.why()).To(HavePrefix("CommitFailed: undone again and again"), "the fight is over after a minute")
		Expect(started.log.With(`"condition"="CommitFailed"`)).To(HaveLen(2), "said once for each program")
	})

	It("ends the agent if it cannot be noticed any more", func(SpecContext) {
		broken := errors.New("the socket broke")
		watch := newScriptedWatch()
		started := run(&recorder.Kernel{}, agent.Options{Node: "node", Manifests: GinkgoT().TempDir(), Watch: watch})
		started.awaitReady()
		watch.fail(broken)
		Eventually(started.done, soon, often).Should(BeClosed())
		Expect(started.ended).To(MatchError(broken))
		started.ended = nil
	})

	It("before the first commit does not matter", func(SpecContext) {
		watch := newScriptedWatch()
		watch.notice(nft.Tampering{})
		started := run(&recorder.Kernel{}, agent.Options{Node: "node", Manifests: GinkgoT().TempDir(), Watch: watch})
		started.awaitReady()
		Consistently(started.metricOf("podfence_repairs_total"), while, often).Should(BeZero())
	})
})

// nodeEvents are those on the cluster's Node.
func (c *cluster) nodeEvents(ctx context.Context) []corev1.Event {
	GinkgoHelper()
	var all corev1.EventList
	Eventually(func() ([]corev1.Event, error) {
		err := admin.List(ctx, &all, client.InNamespace("default"), client.MatchingFields{"involvedObject.kind": "Node", "involvedObject.name": c.node})
		return all.Items, err
	}, soon, often).ShouldNot(BeEmpty())
	return all.Items
}

// scriptedWatch notices what it is told.
type scriptedWatch struct {
	tampered chan struct{}

	mu      sync.Mutex
	noticed []nft.Tampering
	err     error
}

func newScriptedWatch() *scriptedWatch { return &scriptedWatch{tampered: make(chan struct{}, 1)} }

func (w *scriptedWatch) Tampered() <-chan struct{} { return w.tampered }

func (w *scriptedWatch) Take() ([]nft.Tampering, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	noticed := w.noticed
	w.noticed = nil
	return noticed, w.err
}

func (w *scriptedWatch) notice(t nft.Tampering) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noticed = append(w.noticed, t)
	w.signal()
}

func (w *scriptedWatch) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
	w.signal()
}

func (w *scriptedWatch) signal() {
	select {
	case w.tampered <- struct{}{}:
	default:
	}
}
