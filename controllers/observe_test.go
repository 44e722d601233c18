package controllers_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/observer"
	"github.com/podfence/podfence/test/recorder"
)

// printout is a standard output that is looked at while it is written.
type printout struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (p *printout) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(text)
}

func (p *printout) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// deniedIn is a denial of a packet from a pod of a namespace.
func deniedIn(namespace, text string) *flows.Flow {
	return &flows.Flow{Verdict: flows.Denied, Text: text, Source: flows.Endpoint{Namespace: namespace, Pod: "pod"}}
}

var _ = Describe("What was denied", func() {
	It("is told to who asks", func() {
		query := freeAddress()
		started := run(&recorder.Kernel{}, agent.Options{Node: "node", Manifests: GinkgoT().TempDir(), QueryAddress: query, ObserveFlows: 2})
		for _, text := range []string{"forgotten", "kept", "last"} {
			started.Flows.Add(deniedIn("shop", text))
		}
		Eventually(func() (string, error) {
			response, err := http.Get("http://" + query + flows.Path)
			if err != nil {
				return "", err
			}
			defer response.Body.Close()
			text, err := io.ReadAll(response.Body)
			return string(text), err
		}, soon, often).Should(And(ContainSubstring(`"kept"`), ContainSubstring(`"last"`), Not(ContainSubstring("forgotten"))))
	})

	It("is logged for a namespace that asks for it, while it does", func(ctx SpecContext) {
		c, out := newCluster(), &printout{}
		asks, always, other := c.namespace("asks", nil), c.namespace("always", nil), c.namespace("other", nil)
		for _, ns := range []*corev1.Namespace{asks, always} {
			ns.Annotations = map[string]string{flows.DropLogAnnotation: "true", "other": "kept by nobody"}
			Expect(admin.Update(ctx, ns)).To(Succeed())
		}
		other.Annotations = map[string]string{flows.DropLogAnnotation: "false"}
		Expect(admin.Update(ctx, other)).To(Succeed())
		started := run(&recorder.Kernel{}, agent.Options{Node: c.node, API: agentUser, DropLog: observer.DropLogOptions{To: observer.DropLogOff, Stdout: out}})
		started.awaitReady()
		started.Flows.Add(deniedIn(other.Name, "other's"))
		started.Flows.Add(deniedIn(asks.Name, "asked for"))
		Eventually(out.String, soon, often).Should(ContainSubstring("asked for"))
		Expect(out.String()).NotTo(ContainSubstring("other's"))

		asks.Annotations = nil
		Expect(admin.Update(ctx, asks)).To(Succeed())
		probes := 0
		Eventually(func() bool { // until the agent knows
			probes++
			probe, end := fmt.Sprintf("probe %d.", probes), fmt.Sprintf("end %d.", probes)
			started.Flows.Add(deniedIn(asks.Name, probe))
			started.Flows.Add(deniedIn(always.Name, end))
			Eventually(out.String, soon, often).Should(ContainSubstring(end))
			return strings.Contains(out.String(), probe)
		}, soon, often).Should(BeFalse())
		Eventually(func() float64 { return started.metric("podfence_drop_log_lines_total", "result=written") }, soon, often).
			Should(BeEquivalentTo(strings.Count(out.String(), "\n")))
	})

	It("is logged for a namespace of a folder that asks for it", func() {
		folder, out := GinkgoT().TempDir(), &printout{}
		Expect(os.WriteFile(filepath.Join(folder, "shop.yaml"), []byte("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {podfence.io/drop-log: \"true\"}}\n"), 0o600)).To(Succeed())
		started := run(&recorder.Kernel{}, agent.Options{Node: "node", Manifests: folder, DropLog: observer.DropLogOptions{Stdout: out}})
		started.awaitReady()
		started.Flows.Add(deniedIn("other", "other's"))
		started.Flows.Add(deniedIn("shop", "asked for"))
		Eventually(out.String, soon, often).Should(ContainSubstring("asked for"))
		Expect(out.String()).NotTo(ContainSubstring("other's"))
	})
})
