//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/test/check"
)

// TestModeChanged: agents that connected the pods are replaced by agents of another mode,
// though no other plugin is there to connect pods, and then by those of before. Pods that
// run stay connected and fenced all the time, and the nodes Ready; the agents either go on
// with what they find, so that new pods are connected and fenced as well, or are not ready
// and say what to do.
func TestModeChanged(t *testing.T) {
	for _, mode := range []string{"chained", "policy-only"} {
		t.Run(mode, func(t *testing.T) {
			g := keepGoing(t)
			t.Cleanup(func() {
				applyOverlay(t, "default")
				agentsReady(t)
			})
			before := agents(t)
			applyToAll(t, mode)
			check.Eventually(t, 2*time.Minute, "all agents to be replaced, and to say how it is", func() error {
				for uid := range agents(t) {
					if before[uid] {
						return fmt.Errorf("one is of before")
					}
				}
				for _, node := range bothNodes {
					if _, _, err := readyz(node); err != nil {
						return err
					}
				}
				return nil
			})
			ready := 0
			check.Eventually(t, time.Minute, "the agents to be ready, or to say what to do", func() error {
				ready = 0
				for _, node := range bothNodes {
					switch status, text, err := readyz(node); {
					case err != nil:
						return err
					case status == http.StatusOK:
						ready++
					case !strings.Contains(text, "--cni"): // it has only begun
						return fmt.Errorf("that of %s says %q", node, text)
					default:
						t.Logf("%s: %s", node, text)
					}
				}
				return nil
			})
			if ready == len(bothNodes) {
				t.Logf("the agents are ready with --cni of %s", mode)
				pod := start(t, newPod(g.namespace, "after", on("node2"), labelled("app", "server")))[0]
				expectWays(t, "a new pod to be connected and fenced", ways("friend", netnsOf(t, g.friends[0]), podIPs(pod), 8080, 0),
					ways("stranger", netnsOf(t, g.strangers[0]), podIPs(pod), 8080, 0))
			}

			applyOverlay(t, "default")
			agentsReady(t)
			pod := start(t, newPod(g.namespace, "back", on("node2"), labelled("app", "server")))[0]
			expectWays(t, "a new pod to be connected and fenced", ways("friend", netnsOf(t, g.friends[0]), podIPs(pod), 8080, 0),
				ways("stranger", netnsOf(t, g.strangers[0]), podIPs(pod), 8080, 0))
			g.check(t)
		})
	}
}
