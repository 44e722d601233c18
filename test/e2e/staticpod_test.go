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

// staticPods is where kubelet looks for them.
const staticPods = "/etc/kubernetes/manifests/"

// TestStaticPod: a pod that kubelet has from a file starts, though the runtime knows it by
// another UID than the API, and is fenced.
func TestStaticPod(t *testing.T) {
	ns := newNamespace(t)
	friendsAndServers(t, ns)
	others := start(t, newPod(ns, "friend", on("node1")), newPod(newNamespace(t), "stranger", on("node2")))
	manifest := fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: static, namespace: %s, labels: {app: server}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: agnhost, image: %q, imagePullPolicy: IfNotPresent, args: [netexec, --http-port=8080, --udp-port=8081]}
`, ns, agnhost)
	writeOn(t, "node2", staticPods+"static.yaml", manifest)
	mirror := func() (*corev1.Pod, error) {
		return client.CoreV1().Pods(ns).Get(context.Background(), "static-node2", metav1.GetOptions{})
	}
	var pod *corev1.Pod
	check.Eventually(t, 3*time.Minute, "the static pod to be Ready", func() (err error) {
		pod, err = mirror()
		if err == nil && !isReady(pod) {
			err = fmt.Errorf("it is %s", pod.Status.Phase)
		}
		return err
	})
	expectWays(t, "a friend to reach the static pod, and a stranger not to",
		waysToPod("friend", netnsOf(t, others[0]), pod), waysToPod("stranger", netnsOf(t, others[1]), pod))

	run(t, "node2", "rm", staticPods+"static.yaml")
	check.Eventually(t, 2*time.Minute, "the static pod to be gone", func() error {
		if pod, err := mirror(); err == nil {
			return fmt.Errorf("it is %s", pod.Status.Phase)
		}
		return nil
	})
}
