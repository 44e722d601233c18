package explain_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// bigCluster has workloads in 50 namespaces, 100 pods each, and 40 policies in each namespace: a default
// deny, and for each workload some that let a few others in.
func bigCluster(workloads int) *explain.Cluster {
	const namespaces, pods, policies, nodes = 50, 100, 40, 200
	c := &explain.Cluster{}
	for i := range nodes {
		c.Nodes = append(c.Nodes, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%d", i)},
			Spec:       corev1.NodeSpec{PodCIDR: fmt.Sprintf("10.%d.%d.0/24", 128+i/250, i%250), PodCIDRs: []string{fmt.Sprintf("10.%d.%d.0/24", 128+i/250, i%250)}},
			Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.0.2.%d", i+1)}}},
		})
	}
	for i := range namespaces {
		c.Namespaces = append(c.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("ns-%d", i), Labels: map[string]string{"kubernetes.io/metadata.name": fmt.Sprintf("ns-%d", i)},
		}})
	}
	placed := make([]int, nodes)
	for w := range workloads {
		for i := range pods {
			node := (w*pods + i) % nodes
			placed[node]++
			name := fmt.Sprintf("w-%d", w)
			c.Pods = append(c.Pods, &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: fmt.Sprintf("ns-%d", w%namespaces), Name: fmt.Sprintf("%s-%d", name, i), Labels: map[string]string{"app": name},
					OwnerReferences: []metav1.OwnerReference{{Kind: "StatefulSet", Name: name, Controller: new(true)}},
				},
				Spec: corev1.PodSpec{NodeName: fmt.Sprintf("node-%d", node)},
				Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{
					IP: fmt.Sprintf("10.%d.%d.%d", 128+node/250, node%250, placed[node]%254+1)}}},
			})
		}
	}
	for i := range namespaces {
		for j := range policies {
			c.Policies = append(c.Policies, bigPolicy(i, j, workloads/namespaces))
		}
	}
	return c
}

func bigPolicy(namespace, number, workloads int) *networkingv1.NetworkPolicy {
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("ns-%d", namespace), Name: fmt.Sprintf("p-%d", number)}}
	if number == 0 {
		np.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
		return np
	}
	port := intstr.FromInt32(int32(8000 + number))
	ports := []networkingv1.NetworkPolicyPort{{Port: &port}}
	app := func(i int) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprintf("w-%d", namespace+i*50)}}
	}
	np.Spec.PodSelector = *app(number % workloads)
	other := networkingv1.NetworkPolicyPeer{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": fmt.Sprintf("ns-%d", (namespace+number)%50)}},
		PodSelector:       &metav1.LabelSelector{},
	}
	np.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{other, {PodSelector: app(number + 1)}}, Ports: ports}}
	np.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{other}}}
	if number%20 == 1 {
		np.Spec.Egress = append(np.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{
			{IPBlock: &networkingv1.IPBlock{CIDR: fmt.Sprintf("198.18.%d.0/24", namespace)}}}})
	}
	return np
}

// BenchmarkMatrix asks for all pairs of workloads of a large cluster, with all that is read before.
func BenchmarkMatrix(b *testing.B) {
	for _, workloads := range []int{200, 500} {
		c := bigCluster(workloads)
		b.Run(fmt.Sprintf("workloads=%d/pods=%d/policies=%d", workloads, len(c.Pods), len(c.Policies)), func(b *testing.B) {
			for b.Loop() {
				m, err := explain.New(c, policy.JudgeOptions{}).Matrix("")
				if err != nil || len(m.Cells) == 0 {
					b.Fatal(len(m.Cells), err)
				}
				b.ReportMetric(float64(len(m.Cells)), "cells")
			}
		})
	}
}

// BenchmarkMatrixUnfenced is the same where no policy is about any pod, so that each pair is open.
func BenchmarkMatrixUnfenced(b *testing.B) {
	c := bigCluster(200)
	c.Policies = nil
	for b.Loop() {
		m, err := explain.New(c, policy.JudgeOptions{}).Matrix("")
		if err != nil || len(m.Cells) < 200*200 {
			b.Fatal(len(m.Cells), err)
		}
	}
}

// BenchmarkDiff compares a large cluster with what it is once two policies open a namespace to another.
func BenchmarkDiff(b *testing.B) {
	c := bigCluster(200)
	in := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns-1", Name: "in"}}
	in.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}}
	out := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns-2", Name: "out"}}
	out.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{}}
	out.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
	changed := &explain.Cluster{}
	changed.Policies = []*networkingv1.NetworkPolicy{in, out}
	now, err := explain.Apply(c, changed)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		d := explain.Compare(explain.New(c, policy.JudgeOptions{}), explain.New(now, policy.JudgeOptions{}))
		if len(d.Opened) == 0 || len(d.Closed) > 0 {
			b.Fatalf("%d opened, %d closed", len(d.Opened), len(d.Closed))
		}
		b.ReportMetric(float64(len(d.Opened)), "opened")
	}
}
