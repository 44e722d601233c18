//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/test/check"
)

// TestConfigurationThatSortsFirst: another network's configuration is before podfence's on
// a node, so that the runtime takes that one, and new pods would be on its bridge, not
// fenced. The agent is not ready, and says which file it is, until it is away.
func TestConfigurationThatSortsFirst(t *testing.T) {
	g := keepGoing(t)
	const file = "05-leftover.conflist"
	writeOn(t, "node2", "/etc/cni/net.d/"+file, `{"cniVersion":"1.0.0","name":"leftover","plugins":[
		{"type":"bridge","bridge":"cni9","isGateway":true,"ipam":{"type":"host-local","subnet":"10.99.0.0/24"}}]}`)
	expectUnready(t, "node2", file)
	check.Eventually(t, seenWithin, "the agent's pod to be not Ready", func() error {
		if isReady(agentPods(t)["node2"]) {
			return fmt.Errorf("it is")
		}
		return nil
	})
	if !isReady(agentPods(t)["node1"]) {
		t.Error("the agent of node1 is not Ready, which has no such file")
	}
	// One that sorts behind is nobody's concern.
	run(t, "node2", "mv", "/etc/cni/net.d/"+file, "/etc/cni/net.d/90-leftover.conflist")
	t.Cleanup(func() { run(t, "node2", "rm", "-f", "/etc/cni/net.d/90-leftover.conflist") })
	agentsReady(t)
	pod := start(t, newPod(g.namespace, "after", on("node2"), labelled("app", "server")))[0]
	if _, err := client.CoreV1().Pods(pod.Namespace).Get(context.Background(), pod.Name, metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	expectWays(t, "a friend to reach a pod that starts after that", ways(g.friends[0].Name, netnsOf(t, g.friends[0]), podIPs(pod), 8080, 0), nil)
	for i, talk := range g.talks {
		talk.check(t, fmt.Sprintf("talk %d", i))
	}
	g.checkClosed(t)
}
