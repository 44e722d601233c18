package explain_test

import (
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
