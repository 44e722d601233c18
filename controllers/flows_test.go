package controllers_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/podfence/podfence/agent"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/recorder"
)

var _ = Describe("Established flows", func() {
	const bit = 1 << 29

	It("are cut when a policy no longer allows them, and go on when it does again", func(ctx SpecContext) {
		w := newWorld()
		w.namespace("shop", nil)
		web, _ := w.pod("shop", "web", set{"app": "web"})
		client, _ := w.pod("shop", "client", set{"app": "client"})
		other, otherPod := w.pod("shop", "other", nil)
		flows, err := kernel.OpenFlows(kernel.Options{NetNS: w.where.NetNS()}, bit)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(flows.Close)
		started := run(w.kernel, agent.Options{
			Node: w.node, API: agentUser, Flows: flows, Ruleset: ruleset.Options{RevokedMark: bit},
		})
		started.awaitReady()
		kept := connect(ctx, client, web)
		cut := connect(ctx, other, web)
		Expect(echoes(kept)).To(Equal(4))
		Expect(echoes(cut)).To(Equal(4))

		w.policy("shop", "web", onlyClients)
		Eventually(started.metricOf("podfence_flows_total", "change=revoked"), soon, often).Should(BeEquivalentTo(4))
		Expect(echoes(cut)).To(BeZero())
		Expect(echoes(kept)).To(Equal(4))

		relabel(otherPod, set{"app": "client"})
		Eventually(started.metricOf("podfence_flows_total", "change=restored"), soon, often).Should(BeEquivalentTo(4))
		Eventually(echoes, soon, often).WithArguments(cut).Should(Equal(4))
		Expect(started.metric("podfence_flows_total", "change=revoked")).To(BeEquivalentTo(4))

		// What changes while there is no agent, the next one makes up for. (New
		// connections: in the others, answers of long ago are still under way.)
		late := connect(ctx, other, web)
		started.stop()
		relabel(otherPod, nil)
		Expect(echoes(late)).To(Equal(4))
		again := run(w.kernel, agent.Options{
			Node: w.node, API: agentUser, Flows: flows, Ruleset: ruleset.Options{RevokedMark: bit},
		})
		Eventually(again.metricOf("podfence_flows_total", "change=revoked"), soon, often).Should(BeEquivalentTo(8))
		Expect(echoes(late)).To(BeZero())
		Expect(echoes(kept)).To(Equal(4))
	})

	It("are judged after each commit, by what it has committed, and again after an error", func(ctx SpecContext) {
		judged := &judgedFlows{packet: policy.Packet{
			Src: netip.MustParseAddr("10.244.1.9"), Dst: netip.MustParseAddr("10.244.1.1"), Protocol: policy.TCP, DstPort: 80, HopLimit: 64,
		}}
		kernel := &recorder.Kernel{}
		started := run(kernel, agent.Options{Node: "node", Manifests: GinkgoT().TempDir(), Flows: judged})
		started.awaitReady()
		Eventually(judged.calls.Load, soon, often).Should(BeEquivalentTo(1))
		Expect(judged.passed.Load()).To(BeTrue())

		feedPod(started, 1)
		isolatePods(started)
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		Eventually(judged.passed.Load, soon, often).Should(BeFalse())

		// Nothing to commit, nothing to judge, once what follows a commit is over.
		Eventually(func() bool {
			calls := judged.calls.Load()
			time.Sleep(2 * while)
			return judged.calls.Load() == calls
		}, soon, often).Should(BeTrue())
		calls := judged.calls.Load()
		feedPod(started, 1)
		Expect(started.Enforcer.Sync(within(ctx, soon))).To(Succeed())
		Consistently(judged.calls.Load, while, often).Should(Equal(calls))

		judged.fail.Store(true)
		feedPod(started, 2)
		Eventually(started.log.With, soon, often).WithArguments("Cannot judge all established flows").ShouldNot(BeEmpty())
		Expect(started.Enforcer.Ready()).To(Succeed(), "new connections are judged all the same")
		judged.fail.Store(false)
		calls = judged.calls.Load()
		Eventually(judged.calls.Load, soon, often).Should(BeNumerically(">", calls))
		Expect(judged.passed.Load()).To(BeFalse())
	})
})

// connect opens a TCP and a UDP connection to each address of an echo server
// on the host, which it starts if there is none yet.
func connect(ctx context.Context, from, to *lab.Host) (all []net.Conn) {
	GinkgoHelper()
	const port = 8080
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
		_, _ = to.Serve(protocol, port) // an earlier one goes on
		for _, ip := range to.IPs {
			conn, err := from.Dial(ctx, protocol, netip.AddrPortFrom(ip, port))
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(conn.Close)
			all = append(all, conn)
		}
	}
	return all
}

// echoes counts the connections that still work, all asked at the same time.
func echoes(all []net.Conn) int {
	answers := make(chan bool, len(all))
	for _, conn := range all {
		go func() { answers <- lab.Echo(conn, []byte("podfence"), time.Second/2) == nil }()
	}
	n := 0
	for range all {
		if <-answers {
			n++
		}
	}
	return n
}

// judgedFlows is connection tracking with one flow, which nothing becomes of.
type judgedFlows struct {
	packet policy.Packet
	fail   atomic.Bool
	calls  atomic.Int32
	passed atomic.Bool
}

// Forget implements agent.Flows.
func (*judgedFlows) Forget([]netip.Addr) error { return nil }

// Revoke implements agent.Flows.
func (f *judgedFlows) Revoke(judge func(nft.HookPoint, policy.Packet) bool) (revoked, restored int, err error) {
	f.passed.Store(judge(nft.Forward, f.packet))
	f.calls.Add(1)
	if f.fail.Load() {
		return 0, 0, errors.New("the list was interrupted")
	}
	return 0, 0, nil
}

// RevokeOf implements agent.Flows.
func (f *judgedFlows) RevokeOf(_ []netip.Addr, judge func(nft.HookPoint, policy.Packet) bool) (revoked, restored int, err error) {
	return f.Revoke(judge)
}

// isolatePods denies all pods of the namespace shop everything.
func isolatePods(started *running) {
	started.Enforcer.Feed(policy.SetPolicy(policy.Policy{
		Key:     policy.Key{Namespace: "shop", Name: "deny"},
		Subject: &policy.Selector{Namespace: "shop"}, Isolates: [2]bool{true, true},
	}))
}
