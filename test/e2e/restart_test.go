//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/test/check"
)

// agents are the UIDs of the agents' pods.
func agents(t *testing.T) map[string]bool {
	t.Helper()
	pods, err := client.CoreV1().Pods("podfence-system").List(context.Background(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=agent"})
	if err != nil {
		t.Fatal(err)
	}
	uids := map[string]bool{}
	for _, pod := range pods.Items {
		uids[string(pod.UID)] = true
	}
	return uids
}

// TestNodeRestart takes a node's power away and gives it back: its tables are
// lost, and its pods start again. Until their policies are in, nothing reaches
// them.
func TestNodeRestart(t *testing.T) {
	ns, open := newNamespace(t), newNamespace(t)
	friendsAndServers(t, ns)
	var isolated []*corev1.Pod
	for i := range 5 {
		isolated = append(isolated, newPod(ns, fmt.Sprintf("server-%d", i), on("node2"), labelled("app", "server")))
	}
	isolated = start(t, isolated...)
	others := start(t, newPod(ns, "friend", on("node1")), newPod(open, "stranger", on("node1")), newPod(open, "control", on("node2")))
	friend, stranger, control := others[0], others[1], others[2]
	spray(t, stranger)

	if err := theCluster.RestartNode(context.Background(), 2, nil); err != nil {
		t.Fatal(err)
	}
	again := func(pod *corev1.Pod) (now *corev1.Pod) {
		check.Eventually(t, 4*time.Minute, pod.Name+" to be back", func() (err error) {
			now, err = client.CoreV1().Pods(pod.Namespace).Get(context.Background(), pod.Name, metav1.GetOptions{})
			switch {
			case err != nil:
				return err
			case !isReady(now) || now.Status.ContainerStatuses[0].RestartCount == 0:
				return fmt.Errorf("it is %s, restarted %d times", now.Status.Phase, now.Status.ContainerStatuses[0].RestartCount)
			case now.UID != pod.UID:
				return fmt.Errorf("it is another pod")
			}
			return nil
		})
		return now
	}
	control = again(control)
	sprayed(t, control)
	for _, pod := range isolated {
		pod = again(pod)
		expectWays(t, "the friend to reach "+pod.Name, ways("friend", netnsOf(t, friend), podIPs(pod), 8080, 0), nil)
		if n := received(t, pod); n != 0 {
			t.Errorf("%s has received %d denied packets", pod.Name, n)
		}
	}
}
