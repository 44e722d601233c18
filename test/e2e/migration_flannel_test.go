//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/test/check"
)

// TestMigrationFromFlannel: flannel, as its own manifest deploys it, connects the pods, and nobody fences them.
// podfence comes by the commands of docs/migrations/flannel.md, chained behind flannel's plugin, and goes again.
// What is denied is closed once the agents have their first commit, and never opens again until podfence is
// removed; what is allowed is never interrupted.
func TestMigrationFromFlannel(t *testing.T) {
	page := readPage(t, "flannel")
	installPlugins(t, "main/bridge", "main/loopback", "ipam/host-local", "meta/portmap")
	manifest, err := os.ReadFile(filepath.Join(otherModule(t, "flannel", "github.com/flannel-io/flannel"), "Documentation/kube-flannel.yml"))
	if err != nil {
		t.Fatal(err)
	}
	showOther(t, "kube-flannel", "app=flannel")
	deployOther(t, manifest)
	otherReady(t, "kube-flannel", "kube-flannel-ds")

	p := startPassage(t, page, false, bothNodes...)
	forbidden := keepTalking(t, p.pods.strangers[0], podIPs(p.pods.servers[1])[0])
	begin := time.Now()
	d := p.step(t, "chained")
	committed := p.step(t, "committed")
	p.expectKept(t, "chained", d)
	p.expectKept(t, "committed", committed)
	if d.leaked == 0 {
		t.Error("nothing has arrived while nobody has enforced policies: nothing is measured")
	}
	p.mu.Lock()
	open := p.leakedLast.Sub(begin)
	p.mu.Unlock()
	check.Eventually(t, 30*time.Second, "the connection that policies forbid to be cut", func() error {
		forbidden.mu.Lock()
		defer forbidden.mu.Unlock()
		for _, err := range forbidden.errors {
			if strings.Contains(err.Error(), "that was kept") {
				return nil
			}
		}
		return fmt.Errorf("it is alive, after %d requests", forbidden.requests.Load())
	})
	forbidden.end()
	p.expectDenied(t, "by agents whose plugin nobody calls yet")
	p.row(t, "the agents alone")
	p.expectClosed(t, "behind-flannel", p.step(t, "behind-flannel"))
	late := start(t, newPod(p.namespace, "late", on("node2"), labelled("app", "server")))
	expectWays(t, "a new server to be connected and fenced", waysBetween(t, p.pods.friends, late), waysBetween(t, p.pods.strangers, late))
	for _, node := range bothNodes {
		if log := kubectl(t, "--namespace", agentNamespace, "logs", agentOf(t, node)); node == "node2" && !strings.Contains(log, "late") {
			t.Errorf("the agent of %s was not asked about the new pod: %s", node, log)
		}
	}
	p.expectClosed(t, "podfence behind flannel", p.row(t, "a new pod is started"))

	p.expectClosed(t, "back-flannel", p.step(t, "back-flannel"))
	d = p.step(t, "back-podfence")
	p.expectKept(t, "back-podfence", d)
	for _, node := range bothNodes {
		expectCleared(t, node)
	}
	again := start(t, newPod(p.namespace, "again", on("node2"), labelled("app", "server")))
	expectWays(t, "a new pod of flannel's to be reached", waysBetween(t, p.pods.friends, again), nil)
	publish(t, page, time.Since(p.began), fmt.Sprintf("\nThe last denied packet arrived %.1f s after `chained` began: until then, nobody had enforced policies.\n", open.Seconds()), p.rows...)
}
