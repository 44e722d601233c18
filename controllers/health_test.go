package controllers_test

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/test/recorder"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/cni/node"
)

// why is what /readyz says.
func (r *running) why() string {
	response, err := http.Get("http://" + r.health + "/readyz")
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return string(text)
}

var _ = Describe("An agent is not ready", func() {
	// Pods of the node that this one really is would be fenced by nobody.
	It("while no Node has its name, and says which come near", func(ctx SpecContext) {
		c := newCluster()
		near := nodeNamed(c.node + ".example.com")
		started := run(&recorder.Kernel{}, agent.Options{Node: c.node, API: agentUser})
		started.awaitReady()
		Expect(started.metric("podfence_unhealthy", "condition=NodeUnknown")).To(BeZero())

		remove(nodeNamed(c.node))
		Eventually(started.why, soon, often).Should(And(
			HavePrefix("NodeUnknown: "), ContainSubstring(`"`+c.node+`"`), ContainSubstring("nearest"), ContainSubstring(near.Name)))
		Expect(started.readyz()).To(Equal(http.StatusInternalServerError))
		Expect(started.healthz()).To(Equal(http.StatusOK), "a restart would not help")
		Expect(started.metric("podfence_unhealthy", "condition=NodeUnknown")).To(BeEquivalentTo(1))
		Expect(started.log.With(`"condition"="NodeUnknown"`)).To(HaveLen(1))
		events := c.nodeEvents(ctx)
		Expect(events).To(HaveLen(1))
		Expect(events[0].Reason).To(Equal("NodeUnknown"))
		Expect(events[0].Message).To(ContainSubstring(near.Name))

		nodeNamed(c.node)
		started.awaitReady()
		Expect(started.metric("podfence_unhealthy", "condition=NodeUnknown")).To(BeZero())
	})

	It("from the start while a check fails", func(SpecContext) {
		var mended atomic.Bool
		check := func() error {
			if mended.Load() {
				return nil
			}
			return errors.New("10-other.conflist comes first")
		}
		kernel := &recorder.Kernel{}
		started := run(kernel, agent.Options{Node: "node", Manifests: GinkgoT().TempDir(),
			Checks: map[report.Condition]func() error{report.ConflistShadowed: check}})
		Eventually(kernel.Plans, soon, often).ShouldNot(BeEmpty(), "the pods are fenced all the same")
		Eventually(started.why, soon, often).Should(Equal("ConflistShadowed: 10-other.conflist comes first\n"))
		Expect(started.readyz()).To(Equal(http.StatusInternalServerError))
		mended.Store(true)
		started.awaitReady()
	})
})

// scriptedNetwork is a node's network that comes to what it is told.
type scriptedNetwork struct{ err atomic.Value }

// Reconcile implements network.NodeNetwork.
func (n *scriptedNetwork) Reconcile(node.Node, []node.Node, []node.Pod) ([]string, error) {
	err, _ := n.err.Load().(func() error)
	return nil, err()
}

// Changed implements network.NodeNetwork.
func (n *scriptedNetwork) Changed() <-chan struct{} { return nil }

var _ = Describe("The node's network", func() {
	broken := func(why error) func() error { return func() error { return why } }

	// start runs an agent that connects pods, by a network and an installation that come
	// to what they are told.
	start := func(routes *scriptedNetwork, publish *atomic.Value) (*cluster, *running) {
		GinkgoHelper()
		c := newCluster()
		c.giveRange(c.nodeObject())
		dir := GinkgoT().TempDir()
		return c, run(&recorder.Kernel{}, agent.Options{Node: c.node, API: agentUser, CNI: &agent.CNI{
			Socket: dir + "/agent.sock", State: dir + "/state", Routes: routes,
			Publish: func(node.Node) error { return publish.Load().(func() error)() },
		}})
	}

	It("is part of readiness: links and routes, plugin and configuration", func(ctx SpecContext) {
		var routes scriptedNetwork
		var publish atomic.Value
		routes.err.Store(broken(errors.New("no link has this node's InternalIP")))
		publish.Store(broken(nil))
		c, started := start(&routes, &publish)
		Eventually(started.why, soon, often).Should(Equal("NetworkFailed: no link has this node's InternalIP\n"))
		Expect(started.log.With(`"condition"="NetworkFailed" "reason"="no link`)).To(HaveLen(1))
		Eventually(func() []corev1.Event { return c.nodeEvents(ctx) }, soon, often).Should(ContainElement(HaveField("Reason", "NetworkFailed")))

		publish.Store(broken(errors.New("read-only file system")))
		routes.err.Store(broken(nil))
		Eventually(started.why, soon, often).Should(Equal("NotInstalled: read-only file system\n"))
		Expect(started.metric("podfence_unhealthy", "condition=NotInstalled")).To(BeEquivalentTo(1))
		Expect(started.metric("podfence_unhealthy", "condition=NetworkFailed")).To(BeZero())

		// It is tried again soon, without news.
		publish.Store(broken(nil))
		started.awaitReady()
		Expect(started.log.With("read-only file system")).To(HaveLen(1))
	})

	It("is not at fault for other nodes", func(SpecContext) {
		var routes scriptedNetwork
		var publish atomic.Value
		routes.err.Store(broken(&node.PartialError{Nodes: map[string]error{"node-7": errors.New("node-7 has no InternalIP")}}))
		publish.Store(broken(nil))
		_, started := start(&routes, &publish)
		started.awaitReady()
		Eventually(func() []string { return started.log.With("node-7 has no InternalIP") }, soon, often).Should(HaveLen(1))
	})
})
