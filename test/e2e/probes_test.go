//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestProbes: kubelet probes pods that are isolated both ways since before they
// started, as a node always reaches its own pods. Nobody else does.
func TestProbes(t *testing.T) {
	namespace, open := newNamespace(t), newNamespace(t)
	apply(t, denyAll(namespace))

	handlers := map[string]corev1.ProbeHandler{
		"http": {HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}},
		"tcp":  {TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}},
		"exec": {Exec: &corev1.ExecAction{Command: []string{"/agnhost", "connect", "127.0.0.1:8080"}}},
		"grpc": {GRPC: &corev1.GRPCAction{Port: 5000}},
	}
	var pods []*corev1.Pod
	for name, handler := range handlers {
		pods = append(pods, newPod(namespace, name, on("node1"), probed(handler), func(p *corev1.Pod) {
			if handler.GRPC != nil {
				p.Spec.Containers[0].Args = []string{"grpc-health-checking", "--port=5000", "--http-port=8080"}
			}
		}))
	}
	// One whose probe must fail shows that the others' are made.
	silent := newPod(namespace, "silent", on("node1"), func(p *corev1.Pod) {
		p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(9)}},
			PeriodSeconds: 1, FailureThreshold: 1,
		}
	})
	if _, err := client.CoreV1().Pods(namespace).Create(context.Background(), silent, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	callers := start(t, newPod(open, "near", on("node1")), newPod(open, "far", on("node2")))
	pods = start(t, pods...)

	var calls []way
	for _, caller := range callers {
		for _, pod := range pods {
			port := int32(8080)
			if pod.Name == "grpc" {
				port = 5000
			}
			for _, w := range ways(caller.Name+" to "+pod.Name, netnsOf(t, caller), podIPs(pod), port, 0) {
				w.foreign = true
				calls = append(calls, w)
			}
		}
	}
	expectWays(t, "isolated pods to be out of reach", nil, calls)
	// Several periods of each probe, of which each failure is told.
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Second) {
		for _, pod := range pods {
			if err := steadilyReady(pod); err != nil {
				t.Fatal(err)
			}
		}
	}
	silent, err := client.CoreV1().Pods(namespace).Get(context.Background(), silent.Name, metav1.GetOptions{})
	if err != nil || silent.Status.Phase != corev1.PodRunning || isReady(silent) {
		t.Errorf("the pod whose probe fails: %v, %s, ready: %t", err, silent.Status.Phase, isReady(silent))
	}
	// It was policy that kept the others away.
	enforce(t, &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "open"},
		Spec:       networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{}}},
	})
	expectWays(t, "pods with a rule for any peer to be in reach", calls, nil)
}

// probed makes a probe tell kubelet whether the pod is ready, and whether to
// restart it.
func probed(handler corev1.ProbeHandler) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		// The time that a program of this size takes to start on a busy machine is
		// not the probes' matter.
		probe := &corev1.Probe{ProbeHandler: handler, PeriodSeconds: 1, TimeoutSeconds: 10, FailureThreshold: 3}
		startup := *probe
		startup.FailureThreshold = 60
		p.Spec.Containers[0].StartupProbe, p.Spec.Containers[0].ReadinessProbe, p.Spec.Containers[0].LivenessProbe = &startup, probe, probe
	}
}

// steadilyReady fails if a pod is not ready, has not been since it was first
// seen so, or has restarted.
func steadilyReady(seen *corev1.Pod) error {
	pod, err := client.CoreV1().Pods(seen.Namespace).Get(context.Background(), seen.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if restarts := pod.Status.ContainerStatuses[0].RestartCount; restarts != 0 || !isReady(pod) || !readySince(pod).Equal(readySince(seen)) {
		return fmt.Errorf("pod %s: %d restarts, ready: %t, since %s, and before that since %s", pod.Name, restarts, isReady(pod), readySince(pod), readySince(seen))
	}
	return nil
}

func readySince(pod *corev1.Pod) *metav1.Time {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return &c.LastTransitionTime
		}
	}
	return nil
}
