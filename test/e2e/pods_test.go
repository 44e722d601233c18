//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/cluster"
)

// agnhost is the image of Kubernetes' own network tests.
const agnhost = "registry.k8s.io/e2e-test-images/agnhost:2.66.1"

// newNamespace makes a namespace for one test.
func newNamespace(t *testing.T, change ...func(*corev1.Namespace)) string {
	t.Helper()
	made := &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-", Labels: map[string]string{"e2e": strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))}},
	}
	for _, c := range change {
		c(made)
	}
	ns, err := client.CoreV1().Namespaces().Create(context.Background(), made, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		now := int64(0)
		if err := client.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
			t.Error(err)
		}
	})
	return ns.Name
}

// newPod is a pod that answers HTTP on port 8080 with its name, labelled
// app=NAME.
func newPod(namespace, name string, change ...func(*corev1.Pod)) *corev1.Pod {
	grace := int64(1)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "agnhost", Image: agnhost, ImagePullPolicy: corev1.PullIfNotPresent,
				Args: []string{"netexec", "--http-port=8080", "--udp-port=8081"},
			}},
		},
	}
	for _, c := range change {
		c(pod)
	}
	return pod
}

// on puts a pod on a node.
func on(node string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeName = node }
}

// start creates pods and waits until they are Ready; it returns them as they
// are then.
func start(t *testing.T, pods ...*corev1.Pod) []*corev1.Pod {
	t.Helper()
	ctx := context.Background()
	for _, pod := range pods {
		if _, err := client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	started := make([]*corev1.Pod, len(pods))
	for i, pod := range pods {
		check.Eventually(t, 2*time.Minute, "pod "+pod.Name+" to be Ready", func() (err error) {
			started[i], err = client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
			if err == nil && !isReady(started[i]) {
				err = fmt.Errorf("it is %s: %+v", started[i].Status.Phase, started[i].Status.Conditions)
			}
			return err
		})
	}
	return started
}

func isReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// apply creates a policy.
func apply(t *testing.T, policy *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	t.Helper()
	created, err := client.NetworkingV1().NetworkPolicies(policy.Namespace).Create(context.Background(), policy, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return created
}

// denyAll isolates all pods of a namespace in both directions.
func denyAll(namespace string) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "deny-all"},
		Spec: networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
		},
	}
}

// netnsOf is the network namespace of a pod that runs.
func netnsOf(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	path, err := cluster.PodNetNS(string(pod.UID))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func hostPort(ip string, port uint16) string {
	return netip.AddrPortFrom(netip.MustParseAddr(ip), port).String()
}
