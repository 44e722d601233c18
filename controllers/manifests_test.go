package controllers_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/podfence/podfence/agent"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/logbook"
	"github.com/podfence/podfence/test/recorder"
)

var _ = Describe("A folder of manifests", func() {
	const deny = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
`

	It("that becomes empty is enforced as it last was, and the agent is not ready", func(ctx SpecContext) {
		folder, kernel := GinkgoT().TempDir(), &recorder.Kernel{}
		started := run(kernel, agent.Options{Node: "node", Manifests: folder, KeepIfEmpty: true})
		const complaint = "Not ready\" \"condition\"=\"ManifestsEmpty\""
		Eventually(started.log.With, soon, often).WithArguments(complaint).Should(HaveLen(1))
		Expect(started.readyz()).To(Equal(http.StatusInternalServerError))
		Expect(kernel.Plans()).To(BeEmpty(), "what the agent before has left stays")

		write(folder, "web.yaml", deny)
		started.awaitReady()
		plans := len(kernel.Plans())
		Expect(os.Remove(filepath.Join(folder, "web.yaml"))).To(Succeed())
		Eventually(started.readyz, soon, often).Should(Equal(http.StatusInternalServerError))
		Expect(started.log.With(complaint)).To(HaveLen(2))
		Expect(started.metric("podfence_manifests_valid")).To(BeZero())
		Expect(started.metric("podfence_policies", "active=false")).To(BeEquivalentTo(1), "the policy is in force")
		Expect(kernel.Plans()).To(HaveLen(plans))

		write(folder, "web.yaml", deny)
		started.awaitReady()
		Expect(started.log.With(`A condition is over" "condition"="ManifestsEmpty"`)).To(HaveLen(2))
	})

	It("is enforced as it is, and as it last was while it is not valid", func(ctx SpecContext) {
		w := newWorld()
		web, client, other := w.host("web"), w.host("client"), w.host("other")
		folder := GinkgoT().TempDir()
		pods := w.podManifest(web, "web") + w.podManifest(client, "client") + w.podManifest(other, "other")
		write(folder, "pods.yaml", pods)
		write(folder, "web.yaml", deny)
		started := run(w.kernel, agent.Options{Node: w.node, Manifests: folder})
		started.awaitReady()
		Expect(started.metric("podfence_manifests_valid")).To(BeEquivalentTo(1))
		w.eventually(ctx, arrive(client, web, 80), lost(other, web, 80))

		// Broken on its fifth line, and the pods changed, too: nothing of it counts.
		const complaint = "The manifests are not valid"
		broken := strings.Replace(deny, "podSelector:", "podSelectors:", 1)
		write(folder, "web.yaml", broken)
		Eventually(started.metricOf("podfence_manifests_valid"), soon, often).Should(BeZero())
		write(folder, "pods.yaml", strings.ReplaceAll(pods, "{app: client}", "{app: retired}"))
		w.always(ctx, arrive(client, web, 80), lost(other, web, 80))
		Expect(started.log.With(complaint)).To(ConsistOf(ContainSubstring(filepath.Join(folder, "web.yaml") + ":5: ")))
		Expect(started.readyz()).To(Equal(http.StatusOK), "what was valid is in force")

		// Right again, it counts as it is now.
		write(folder, "web.yaml", strings.Replace(deny, "{app: client}", "{app: other}", 1))
		w.eventually(ctx, lost(client, web, 80), arrive(other, web, 80))
		Expect(started.metric("podfence_manifests_valid")).To(BeEquivalentTo(1))
		Expect(started.log.With("valid again")).To(HaveLen(1))
		Expect(started.log.With(complaint)).To(HaveLen(1))

		// A file that is gone takes its objects with it: the policy,
		Expect(os.Remove(filepath.Join(folder, "web.yaml"))).To(Succeed())
		w.eventually(ctx, arrive(client, web, 80), arrive(other, web, 80))
		Expect(w.table()).NotTo(ContainSubstring("policy-ingress"))

		// and a pod, which is a stranger in its node's range then, and the node.
		write(folder, "node.yaml", fmt.Sprintf("apiVersion: v1\nkind: Node\nmetadata: {name: %s}\nspec: {podCIDRs: [%q, %q]}\n",
			w.node, w.podCIDRs()[0], w.podCIDRs()[1]))
		write(folder, "pods.yaml", w.podManifest(web, "web")+w.podManifest(client, "client"))
		w.eventually(ctx, arrive(client, web, 80), lost(other, web, 80), lost(web, other, 80))
		// The node's ranges stay closed, though the node's file is gone.
		Expect(os.Remove(filepath.Join(folder, "node.yaml"))).To(Succeed())
		w.always(ctx, arrive(client, web, 80), lost(other, web, 80), lost(web, other, 80))
	})

	It("says the same complaint once, and another one again", func() {
		folder := GinkgoT().TempDir()
		write(folder, "web.yaml", deny)
		kernel := &recorder.Kernel{}
		started := run(kernel, agent.Options{Node: "node", Manifests: folder})
		started.awaitReady()

		broken := deny + "  egres: []\n"
		write(folder, "web.yaml", broken)
		Eventually(started.log.With, soon, often).WithArguments("web.yaml:9").Should(HaveLen(1))
		for range 3 {
			write(folder, "web.yaml", broken)
			Expect(started.Manifests.Reload()).NotTo(Succeed())
		}
		Consistently(started.log.With, while, often).WithArguments("web.yaml:9").Should(HaveLen(1))

		write(folder, "web.yaml", "# moved down\n"+broken)
		Eventually(started.log.With, soon, often).WithArguments("web.yaml:10").Should(HaveLen(1))
	})

	It("writes nothing at all before it is valid for the first time", func() {
		folder := GinkgoT().TempDir()
		write(folder, "web.yaml", deny+"not: [yaml\n")
		kernel := &recorder.Kernel{}
		started := run(kernel, agent.Options{Node: "node", Manifests: folder})
		Eventually(started.log.With, soon, often).WithArguments("web.yaml:").Should(HaveLen(1))
		Eventually(started.healthz, soon, often).Should(Equal(http.StatusOK))
		Consistently(kernel.Attempts, while, often).Should(BeZero())
		Expect(started.readyz()).To(Equal(http.StatusInternalServerError))
		Expect(started.metric("podfence_manifests_valid")).To(BeZero())

		write(folder, "web.yaml", deny)
		started.awaitReady()
		Expect(kernel.Plans()).To(HaveLen(1))
		Expect(kernel.Plans()[0].Replace).To(BeTrue())
		Expect(started.metric("podfence_manifests_valid")).To(BeEquivalentTo(1))
	})

	It("must be there", func(ctx SpecContext) {
		missing := filepath.Join(GinkgoT().TempDir(), "missing")
		started, err := agent.New(&recorder.Kernel{}, agent.Options{
			Node: "node", Manifests: missing, HealthAddress: "0", MetricsAddress: "0",
			Registry: prometheus.NewRegistry(), Log: (&logbook.Book{Also: GinkgoWriter}).Logger(),
		})
		Expect(err).NotTo(HaveOccurred())
		Expect(started.Start(within(ctx, soon))).To(MatchError(os.ErrNotExist))
	})
})

// write replaces a file in one step.
func write(folder, name, text string) {
	GinkgoHelper()
	// The watcher reads only *.yaml, *.yml and *.json.
	next := filepath.Join(folder, "."+name+".next")
	Expect(os.WriteFile(next, []byte(text), 0o600)).To(Succeed())
	Expect(os.Rename(next, filepath.Join(folder, name))).To(Succeed())
}

// podManifest is the manifest of a pod that runs at a host.
func (w *world) podManifest(host *lab.Host, app string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: shop, labels: {app: %s}}
spec: {nodeName: %s, containers: [{name: main, image: none}]}
status: {phase: Running, podIPs: [{ip: %q}, {ip: %q}]}
`, host.Name, app, w.node, host.IPs[0], host.IPs[1])
}
