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

// wideCluster has 500 namespaces with 5 workloads of 8 pods each, and 4 policies each: a default deny, two by which
// workloads let others in of their own and of another namespace, and one by which all may reach the internet.
func wideCluster() *explain.Cluster {
	const namespaces, workloads, pods, nodes = 500, 5, 8, 200
	c := &explain.Cluster{}
	for i := range nodes {
		c.Nodes = append(c.Nodes, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%d", i)},
			Spec:       corev1.NodeSpec{PodCIDRs: []string{fmt.Sprintf("10.128.%d.0/24", i)}},
			Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.0.2.%d", i+1)}}},
		})
	}
	placed := 0
	for i := range namespaces {
		ns := fmt.Sprintf("ns-%d", i)
		c.Namespaces = append(c.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: map[string]string{"kubernetes.io/metadata.name": ns}}})
		for w := range workloads {
			for p := range pods {
				name := fmt.Sprintf("w-%d", w)
				c.Pods = append(c.Pods, &corev1.Pod{
					ObjectMeta: metav1.ObjectMeta{
						Namespace: ns, Name: fmt.Sprintf("%s-%d", name, p), Labels: map[string]string{"app": name},
						OwnerReferences: []metav1.OwnerReference{{Kind: "StatefulSet", Name: name, Controller: new(true)}},
					},
					Spec:   corev1.PodSpec{NodeName: fmt.Sprintf("node-%d", placed%nodes)},
					Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.128.%d.%d", placed%nodes, placed/nodes+1)}}},
				})
				placed++
			}
		}
		port := intstr.FromInt32(8080)
		ports := []networkingv1.NetworkPolicyPort{{Port: &port}}
		app := func(w int) *metav1.LabelSelector {
			return &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprintf("w-%d", w)}}
		}
		other := networkingv1.NetworkPolicyPeer{
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": fmt.Sprintf("ns-%d", (i+1)%namespaces)}},
			PodSelector:       app(1),
		}
		add := func(name string, spec networkingv1.NetworkPolicySpec) {
			c.Policies = append(c.Policies, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: spec})
		}
		add("default-deny", networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}})
		add("in", networkingv1.NetworkPolicySpec{
			PodSelector: *app(0), PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: app(1)}, other}, Ports: ports}},
		})
		add("out", networkingv1.NetworkPolicySpec{
			PodSelector: *app(1), PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
			Egress: []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{}, PodSelector: app(0)}}}},
		})
		add("internet", networkingv1.NetworkPolicySpec{
			PodSelector: *app(2), PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
			Egress: []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: fmt.Sprintf("198.18.%d.0/24", i%10)}}}}},
		})
	}
	return c
}

// BenchmarkMap draws maps of a large cluster: the first, with all that is gone over before it; one with a namespace that
// was opened; and who reaches a workload.
func BenchmarkMap(b *testing.B) {
	c := wideCluster()
	first := explain.New(c, policy.JudgeOptions{}).Atlas()
	draw := func(b *testing.B, a *explain.Atlas, q explain.MapQuery) {
		m, err := a.Map(q)
		if err != nil || len(m.Edges) == 0 {
			b.Fatal(m, err)
		}
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			draw(b, explain.New(c, policy.JudgeOptions{}).Atlas(), explain.MapQuery{})
		}
	})
	draw(b, first, explain.MapQuery{})
	b.Run("open", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			draw(b, first, explain.MapQuery{Open: []string{fmt.Sprintf("ns-%d", i%500)}})
		}
	})
	b.Run("port", func(b *testing.B) {
		for b.Loop() {
			draw(b, first, explain.MapQuery{Port: explain.Port{Protocol: policy.TCP, Number: 8080}})
		}
	})
	b.Run("reach", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			r, err := first.Reach(explain.Target{Kind: "StatefulSet", Namespace: fmt.Sprintf("ns-%d", i%500), Name: "w-0"})
			if err != nil || len(r.Ingress) == 0 {
				b.Fatal(r, err)
			}
		}
	})
	b.Run("matrix", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if _, err := explain.New(c, policy.JudgeOptions{}).Matrix(fmt.Sprintf("ns-%d", i%500)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
