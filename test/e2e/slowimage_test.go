//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/test/check"
)

// imageAway is how long the nodes wait for the agents' new image.
const imageAway = 2 * time.Minute

// TestUpdateWithSlowImage: the agents are updated to an image that takes two minutes to
// come. Meanwhile no node has an agent. None turns NotReady, no endpoint leaves a Service,
// what talks goes on, what is denied stays so, and a container that crashes is started
// again; a new pod waits, is told why, and starts when the agent is back.
func TestUpdateWithSlowImage(t *testing.T) {
	g := keepGoing(t)
	crashing := start(t, newPod(g.namespace, "crashing-1", on("node1")), newPod(g.namespace, "crashing-2", on("node2")))

	image := agentDaemonSet(t).Spec.Template.Spec.Containers[0].Image
	name, _, _ := strings.Cut(image, "@")
	slow := fmt.Sprintf("%s-slow-%d", name, time.Now().Unix())
	changeAgents(t, func(spec *corev1.PodSpec) {
		spec.Containers[0].Image, spec.Containers[0].ImagePullPolicy = slow, corev1.PullIfNotPresent
	})
	expectNoAgent(t, bothNodes...)
	away := time.Now()

	waiting := newPod(g.namespace, "waiting", on("node2"), labelled("app", "server"))
	if _, err := client.CoreV1().Pods(g.namespace).Create(context.Background(), waiting, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, pod := range crashing {
		crash(t, pod)
	}
	for _, pod := range crashing {
		expectRestarted(t, pod)
	}
	check.Eventually(t, time.Minute, "an Event that says what the new pod waits for", func() error {
		events, err := client.CoreV1().Events(g.namespace).List(context.Background(), metav1.ListOptions{FieldSelector: "involvedObject.name=waiting,reason=FailedCreatePodSandBox"})
		if err != nil {
			return err
		}
		for _, event := range events.Items {
			if strings.Contains(event.Message, "agent") {
				return nil
			}
		}
		return fmt.Errorf("none of %d does: %+v", len(events.Items), events.Items)
	})
	time.Sleep(time.Until(away.Add(imageAway)))
	for _, node := range bothNodes {
		if status, _, err := readyz(node); err == nil {
			t.Errorf("%s has had an agent: it answers with %d, and nothing is shown", node, status)
		}
		run(t, node, "ctr", "--namespace", "k8s.io", "images", "tag", image, slow)
	}
	agentsReady(t)
	t.Logf("no agent ran for %s", time.Since(away).Round(time.Second))
	check.Eventually(t, 2*time.Minute, "the pod that waited to be Ready", func() error {
		pod, err := client.CoreV1().Pods(g.namespace).Get(context.Background(), "waiting", metav1.GetOptions{})
		if err == nil && !isReady(pod) {
			err = fmt.Errorf("it is %s", pod.Status.Phase)
		}
		return err
	})
	g.check(t)
}
