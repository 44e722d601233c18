package explain_test

import (
	"fmt"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/explain"
)

// TestPlaceholders: whether a network holds the address that a pod will have, nobody knows, and nobody says.
func TestPlaceholders(t *testing.T) {
	block := func(cidr string, except ...string) networkingv1.NetworkPolicyPeer {
		return networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: cidr, Except: except}}
	}
	web := networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}
	for _, test := range []struct {
		name  string
		peers []networkingv1.NetworkPolicyPeer
		real  bool // the pods have their real addresses
		want  explain.Verdict
	}{
		{"outside of private networks", []networkingv1.NetworkPolicyPeer{block("0.0.0.0/0", "10.0.0.0/8")}, false, explain.Unknown},
		{"a pod network", []networkingv1.NetworkPolicyPeer{block("10.244.0.0/16")}, false, explain.Unknown},
		{"everybody", []networkingv1.NetworkPolicyPeer{block("0.0.0.0/0")}, false, explain.Allowed},
		{"a selector beside it", []networkingv1.NetworkPolicyPeer{block("10.244.0.0/16"), web}, false, explain.Allowed},
		{"nobody", nil, false, explain.Denied},
		{"where no pod is, by the nodes", []networkingv1.NetworkPolicyPeer{block("10.245.0.0/16")}, false, explain.Denied},
		{"where a placeholder is, and no pod", []networkingv1.NetworkPolicyPeer{block("240.0.0.0/8")}, false, explain.Unknown},
		{"link-local", []networkingv1.NetworkPolicyPeer{block("169.254.0.0/16")}, false, explain.Denied},
		{"everybody but metadata", []networkingv1.NetworkPolicyPeer{block("0.0.0.0/0", "169.254.169.254/32")}, false, explain.Allowed},
		{"another family", []networkingv1.NetworkPolicyPeer{block("2001:db8::/32")}, false, explain.Denied},
		{"a real address", []networkingv1.NetworkPolicyPeer{block("0.0.0.0/0", "10.0.0.0/8")}, true, explain.Denied},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := load(t, "cluster.yaml")
			if !test.real {
				for i, pod := range c.Pods[:2] {
					pod.Annotations = map[string]string{v1alpha1.StandInAnnotation: "true"}
					pod.Status.PodIPs[0].IP = []string{"240.0.0.2", "240.0.0.3"}[i]
				}
			}
			np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "out"}, Spec: networkingv1.NetworkPolicySpec{
				PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "client"}}, PolicyTypes: []networkingv1.PolicyType{"Egress"},
			}}
			if len(test.peers) > 0 {
				np.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: test.peers}}
			}
			c.Policies = append(c.Policies, np)
			e := ask(t, c, "shop/client-0", "shop/web-0:8080")
			if said := strings.Contains(textOf(t, e), "has none yet"); e.Verdict != test.want || said != (test.want == explain.Unknown) {
				t.Errorf("%s, want %s:\n%s", e.Verdict, test.want, textOf(t, e))
			}
		})
	}
}

// TestBlocksOfNoPod: a network that can hold no pod's address leaves nothing open, whether Nodes say where pods
// are or not; and where a pod shows that they say too little, they say nothing.
func TestBlocksOfNoPod(t *testing.T) {
	const deny = `
apiVersion: policy.networking.k8s.io/v1beta1
kind: ClusterNetworkPolicy
metadata: {name: deny}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress:
  - action: Deny
    to: [{networks: [%s]}]
`
	for _, test := range []struct {
		network string
		change  func(*explain.Cluster)
		want    explain.Verdict
	}{
		{"169.254.169.254/32", nil, explain.Allowed},
		{"169.254.169.254/32, fd00:ec2::254/128", func(c *explain.Cluster) { c.Nodes = nil }, explain.Allowed},
		{"224.0.0.0/4", func(c *explain.Cluster) { c.Nodes = nil }, explain.Allowed},
		{"10.9.0.0/16", nil, explain.Allowed},
		{"10.0.0.0/8", nil, explain.Unknown},
		{"10.9.0.0/16", func(c *explain.Cluster) { c.Nodes = nil }, explain.Unknown},
		{"10.9.0.0/16", func(c *explain.Cluster) { c.Nodes[0].Spec.PodCIDR, c.Nodes[0].Spec.PodCIDRs = "", nil }, explain.Unknown},
		{"10.9.0.0/16", func(c *explain.Cluster) { c.Pods[2].Status.PodIPs[0].IP = "10.8.0.1" }, explain.Unknown},
		{"2001:db8::/32", func(c *explain.Cluster) { c.Nodes = nil }, explain.Allowed}, // the pods have IPv4 alone
	} {
		c := load(t, "cluster.yaml")
		for i, pod := range c.Pods[:2] {
			pod.Annotations = map[string]string{v1alpha1.StandInAnnotation: "true"}
			pod.Status.PodIPs[0].IP = []string{"240.0.0.2", "240.0.0.3"}[i]
		}
		cnp := &clusterv1beta1.ClusterNetworkPolicy{}
		if err := yaml.UnmarshalStrict(fmt.Appendf(nil, deny, test.network), cnp); err != nil {
			t.Fatal(err)
		}
		c.ClusterPolicies = append(c.ClusterPolicies, cnp)
		if test.change != nil {
			test.change(c)
		}
		if e := ask(t, c, "shop/client-0", "shop/web-0:8080"); e.Verdict != test.want {
			t.Errorf("%s: %s, want %s:\n%s", test.network, e.Verdict, test.want, textOf(t, e))
		}
	}
}

// TestNotAskedIsNotUnknown: rules behind the one of a ClusterNetworkPolicy that decides, and those of the
// Baseline tier for a pod that NetworkPolicies isolate, leave nothing open.
func TestNotAskedIsNotUnknown(t *testing.T) {
	block := networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "10.244.0.0/17"}}
	everybody := networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{}}
	accept := clusterv1beta1.ClusterNetworkPolicyEgressRule{Action: "Accept", To: []clusterv1beta1.ClusterNetworkPolicyEgressPeer{{Namespaces: &metav1.LabelSelector{}}}}
	deny := clusterv1beta1.ClusterNetworkPolicyEgressRule{Action: "Deny", To: []clusterv1beta1.ClusterNetworkPolicyEgressPeer{{Networks: []clusterv1beta1.CIDR{"10.244.0.0/17"}}}}
	for _, test := range []struct {
		name  string
		tier  clusterv1beta1.Tier
		rules []clusterv1beta1.ClusterNetworkPolicyEgressRule
		peer  networkingv1.NetworkPolicyPeer
		want  explain.Verdict
	}{
		{"behind the rule that decides", "Admin", []clusterv1beta1.ClusterNetworkPolicyEgressRule{accept, deny}, block, explain.Allowed},
		{"before it", "Admin", []clusterv1beta1.ClusterNetworkPolicyEgressRule{deny, accept}, everybody, explain.Unknown},
		{"of the Baseline tier", "Baseline", []clusterv1beta1.ClusterNetworkPolicyEgressRule{deny}, everybody, explain.Allowed},
	} {
		c := load(t, "cluster.yaml")
		for i, pod := range c.Pods[:2] {
			pod.Annotations = map[string]string{v1alpha1.StandInAnnotation: "true"}
			pod.Status.PodIPs[0].IP = []string{"240.0.0.2", "240.0.0.3"}[i]
		}
		c.Policies = append(c.Policies, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "out"}, Spec: networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{"Egress"}, Egress: []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{test.peer}}},
		}})
		c.ClusterPolicies = append(c.ClusterPolicies, &clusterv1beta1.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "cnp"}, Spec: clusterv1beta1.ClusterNetworkPolicySpec{
			Tier: test.tier, Priority: 1, Subject: clusterv1beta1.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}}, Egress: test.rules,
		}})
		if e := ask(t, c, "shop/client-0", "shop/web-0:8080"); e.Verdict != test.want {
			t.Errorf("%s: %s, want %s:\n%s", test.name, e.Verdict, test.want, textOf(t, e))
		}
	}
}
