package lint_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/explain/lint"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/scale"
)

// big is a cluster of 20,000 pods. In half of its policies the podSelector has a letter too many, if wrong
// is true.
func big(policies int, wrong bool) *explain.Cluster {
	size := scale.Size{Pods: 20_000, Namespaces: 200, Policies: policies, Local: 100}
	c := &explain.Cluster{Running: true}
	c.Nodes = size.Nodes()
	for n := range size.Namespaces {
		c.Namespaces = append(c.Namespaces, scale.Namespace(n))
	}
	for n := range size.Pods {
		c.Pods = append(c.Pods, size.Pod(n))
	}
	for n := range size.Policies {
		np := size.Policy(n)
		if wrong && n%2 == 0 {
			np.Spec.PodSelector = metav1.LabelSelector{MatchLabels: map[string]string{"ap": fmt.Sprintf("app-%d", n%10)}}
		}
		c.Policies = append(c.Policies, np)
	}
	return c
}

func seenOf(c *explain.Cluster) (s lint.Seen) {
	for _, ns := range c.Namespaces {
		s.Namespaces = append(s.Namespaces, policy.NamespaceOf(ns))
	}
	for _, object := range c.Pods {
		if pod, is := policy.PodOf(object); is {
			s.Pods = append(s.Pods, pod)
		}
	}
	s.Policies, s.ClusterPolicies = c.Policies, c.ClusterPolicies
	return s
}

func BenchmarkLint(b *testing.B) {
	for _, wrong := range []bool{false, true} {
		c := big(1_000, wrong)
		b.Run(fmt.Sprintf("wrong=%t", wrong), func(b *testing.B) {
			for b.Loop() {
				lint.Lint(c)
			}
		})
	}
}

func BenchmarkOfSeen(b *testing.B) {
	for _, wrong := range []bool{false, true} {
		s := seenOf(big(2_000, wrong))
		b.Run(fmt.Sprintf("wrong=%t", wrong), func(b *testing.B) {
			for b.Loop() {
				lint.OfSeen(s)
			}
		})
	}
}

// BenchmarkLintDistinct: no two pods are alike, each is isolated for egress, and ClusterNetworkPolicies
// have a say in whether it reaches the DNS: each is judged by itself.
func BenchmarkLintDistinct(b *testing.B) {
	c := big(1_000, false)
	for n, pod := range c.Pods {
		pod.Labels["statefulset.kubernetes.io/pod-name"] = fmt.Sprintf("pod-%d", n)
	}
	for n := range 200 {
		c.Policies = append(c.Policies, &networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("ns-%04d", n), Name: "egress"},
			Spec: networkingv1.NetworkPolicySpec{
				PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
				Egress:      []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}}},
			},
		})
	}
	for n := range 100 {
		c.ClusterPolicies = append(c.ClusterPolicies, scale.ClusterPolicy(n))
	}
	c.Namespaces = append(c.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system"}})
	for n := range 3 {
		c.Pods = append(c.Pods, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: fmt.Sprintf("dns-%d", n), Labels: map[string]string{"k8s-app": "kube-dns"}},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("203.0.113.%d", n+1)}}},
		})
	}
	for b.Loop() {
		if n := len(lint.Lint(c)); n < 200 {
			b.Fatalf("only %d findings", n)
		}
	}
}
