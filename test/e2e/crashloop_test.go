//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/test/check"
)

// TestAgentsInCrashLoop: a bad flag has all agents end as soon as they start. The nodes
// stay Ready, pods go on, fenced by the last rules, and containers that crash are started
// again.
func TestAgentsInCrashLoop(t *testing.T) {
	g := keepGoing(t)
	crashing := start(t, newPod(g.namespace, "crashing", on("node2")))
	changeAgents(t, func(spec *corev1.PodSpec) {
		spec.Containers[0].Args = append(spec.Containers[0].Args, "--no-such-flag")
	})
	check.Eventually(t, 3*time.Minute, "all agents to have crashed three times", func() error {
		pods := agentPods(t)
		if len(pods) != len(bothNodes) {
			return fmt.Errorf("there are %d", len(pods))
		}
		for node, pod := range pods {
			if len(pod.Status.ContainerStatuses) == 0 || pod.Status.ContainerStatuses[0].RestartCount < 3 {
				return fmt.Errorf("that of %s has not: %+v", node, pod.Status.ContainerStatuses)
			}
		}
		return nil
	})
	crash(t, crashing[0])
	expectRestarted(t, crashing[0])
	g.check(t)
}
