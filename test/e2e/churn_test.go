//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/test/check"
)

// churn is how many pods TestChurn creates and deletes, and atOnce how many of
// them are there together.
const churn, atOnce = 200, 20

// TestChurn creates and deletes pods under default deny, while each address
// that they may get is sent packets. No pod gets one, ever, and all become
// Ready.
func TestChurn(t *testing.T) {
	ns, open := newNamespace(t), newNamespace(t)
	apply(t, denyAll(ns))
	others := start(t, newPod(open, "stranger-1", on("node1")), newPod(open, "stranger-2", on("node2")))
	for _, stranger := range others {
		spray(t, stranger)
	}
	// What starts here without a policy is hit, on both nodes.
	control := func(round int) {
		for _, pod := range start(t, newPod(open, fmt.Sprintf("control-%d-1", round), on("node1")), newPod(open, fmt.Sprintf("control-%d-2", round), on("node2"))) {
			sprayed(t, pod)
		}
	}
	begin, leaks := time.Now(), 0
	for made := 0; made < churn; made += atOnce {
		control(made / atOnce)
		var batch []*corev1.Pod
		for i := range atOnce {
			batch = append(batch, newPod(ns, fmt.Sprintf("churn-%03d", made+i), on(fmt.Sprintf("node%d", 1+i%2))))
		}
		for _, pod := range start(t, batch...) {
			if n := received(t, pod); n != 0 {
				leaks += n
				t.Errorf("%s, %s has received %d denied packets", pod.Name, pod.Status.PodIP, n)
			}
		}
		deletePods(t, ns)
	}
	t.Logf("%d pods created, Ready and deleted in %s; %d denied packets received", churn, time.Since(begin).Round(time.Second), leaks)
}

// deletePods deletes the pods of a namespace and waits until they are gone.
func deletePods(t *testing.T, namespace string) {
	t.Helper()
	pods := client.CoreV1().Pods(namespace)
	if err := pods.DeleteCollection(context.Background(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	check.Eventually(t, 2*time.Minute, "the pods to be gone", func() error {
		left, err := pods.List(context.Background(), metav1.ListOptions{})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("%d are left", len(left.Items))
		}
		return err
	})
}
