package policy_test

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/policy"
)

// TestEnds: who has the addresses of a packet, and by which changes that can come to mean something else.
func TestEnds(t *testing.T) {
	pod := func(name, node, ip string) *policy.Pod {
		return &policy.Pod{Key: policy.Key{Namespace: "shop", Name: name}, Node: node, Labels: policy.LabelsOf(map[string]string{"app": name}), IPs: []netip.Addr{netip.MustParseAddr(ip)}}
	}
	node := func(name string, ips ...string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, ip := range ips {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
		}
		return n
	}
	cnp := &clusterv1beta1.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Spec: clusterv1beta1.ClusterNetworkPolicySpec{
		Tier: clusterv1beta1.AdminTier, Subject: clusterv1beta1.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}},
	}}
	m := policy.NewModel("here")
	m.Apply(
		policy.SetPod(pod("a", "here", "10.0.0.1")), policy.SetPod(pod("b", "there", "10.0.1.1")),
		policy.SetPod(pod("c", "there", "10.0.1.2")), policy.SetPod(pod("d", "there", "10.0.1.2")),
		policy.SetNamespace(policy.Namespace{Name: "shop"}), policy.ChangeOf(cnp),
		policy.ChangeOf(node("there", "192.0.2.2", "10.0.1.1")), policy.ChangeOf(node("here", "192.0.2.1", "192.0.2.2")),
	)
	of := func(addr string) policy.End {
		return m.EndsOf(netip.MustParseAddr(addr), netip.MustParseAddr("10.0.0.1")).Src
	}
	if e := of("10.0.0.1"); e.Pod.Name != "a" || e.Namespace == nil || e.Doubtful || len(e.Nodes) > 0 || !slices.Equal(e.ClusterPolicies, []policy.Key{{Name: "all"}}) {
		t.Errorf("a pod of the node: %+v", e)
	}
	if e := of("10.0.1.1"); e.Pod.Name != "b" || len(e.Nodes) != 1 || len(e.ClusterPolicies) > 0 {
		t.Errorf("a pod whose address a node shows: %+v", e)
	}
	if e := of("10.0.1.2"); e.Pod != nil || !e.Doubtful {
		t.Errorf("an address of two pods: %+v", e)
	}
	if e := of("192.0.2.2"); e.Pod != nil || e.Doubtful || len(e.Nodes) != 2 || e.Nodes[0].Name != "here" || e.Nodes[1].Name != "there" {
		t.Errorf("an address of two nodes: %+v", e)
	}
	if e := of("192.0.2.9"); e.Pod != nil || e.Doubtful || len(e.Nodes) > 0 {
		t.Errorf("nobody's address: %+v", e)
	}
	m.Apply(policy.SetAttachment(policy.Attachment{ContainerID: "c", IfName: "eth0", Pod: policy.Key{Namespace: "shop", Name: "unknown"}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.9")}}))
	if e := of("10.0.0.9"); e.Pod != nil || !e.Doubtful {
		t.Errorf("an address of a container whose pod is not known: %+v", e)
	}

	ends := func() policy.Ends { return m.EndsOf(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.1.1")) }
	for _, test := range []struct {
		name   string
		change policy.Change
		same   bool
	}{
		{"another pod", policy.SetPod(pod("e", "there", "10.0.1.9")), true},
		{"the same node", policy.ChangeOf(node("here", "192.0.2.1", "192.0.2.2")), true},
		{"a node", policy.ChangeOf(node("here", "192.0.2.1")), false},
		{"a node that is gone", policy.DeleteNode("here"), false},
		{"a namespace", policy.SetNamespace(policy.Namespace{Name: "other"}), false},
		{"a policy", policy.ChangeOf(cnp), false},
		{"a policy that is gone", policy.DeletePolicy(policy.Key{Name: "all"}), false},
		{"the source", policy.SetPod(pod("a", "here", "10.0.0.1")), false},
		{"the destination is gone", policy.DeletePod(policy.Key{Namespace: "shop", Name: "b"}), false},
		{"the destination is in doubt", policy.SetPod(pod("f", "there", "10.0.1.2")), true},
	} {
		before := ends()
		m.Apply(test.change)
		if now := ends(); now.SameAs(before) != test.same {
			t.Errorf("%s: the same: %t", test.name, !test.same)
		}
	}
}
