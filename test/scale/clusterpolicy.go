package scale

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
)

// clusterRules is how many rules a ClusterNetworkPolicy has: as many as it may have for a direction.
const clusterRules = 25

// ClusterPolicy is the nth ClusterNetworkPolicy. Every fifth is about all pods, the others about those of
// a team. Four of five are in the admin tier. Its rules are for ingress or egress by turns, and name
// teams, applications of teams, and now and then networks; half of them name a port. Every 25th passes,
// and of the others two accept where one denies.
func ClusterPolicy(n int) *clusterv1beta1.ClusterNetworkPolicy {
	cnp := &clusterv1beta1.ClusterNetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("cluster-policy-%03d", n)},
		Spec:       clusterv1beta1.ClusterNetworkPolicySpec{Tier: clusterv1beta1.AdminTier, Priority: int32(n)},
	}
	if n%5 == 4 {
		cnp.Spec.Tier = clusterv1beta1.BaselineTier
	}
	if cnp.Spec.Subject.Namespaces = teamSelector(n); n%5 == 0 {
		cnp.Spec.Subject.Namespaces = &metav1.LabelSelector{}
	}
	for i := range clusterRules {
		id := n*clusterRules + i
		action := clusterv1beta1.ClusterNetworkPolicyRuleActionAccept
		switch {
		case i == clusterRules-1:
			action = clusterv1beta1.ClusterNetworkPolicyRuleActionPass
		case i%3 == 2:
			action = clusterv1beta1.ClusterNetworkPolicyRuleActionDeny
		}
		var protocols []clusterv1beta1.ClusterNetworkPolicyProtocol
		if i%2 == 0 {
			protocols = []clusterv1beta1.ClusterNetworkPolicyProtocol{{TCP: &clusterv1beta1.ClusterNetworkPolicyProtocolTCP{DestinationPort: &clusterv1beta1.Port{Number: int32(8080 + i)}}}}
		}
		var peer clusterv1beta1.ClusterNetworkPolicyEgressPeer
		switch {
		case n%2 == 1 && i%10 == 9:
			peer.Networks = []clusterv1beta1.CIDR{clusterv1beta1.CIDR(fmt.Sprintf("203.%d.%d.0/24", n, i))}
		case i%2 == 1:
			peer.Pods = &clusterv1beta1.NamespacedPod{
				NamespaceSelector: *teamSelector(id), PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprintf("app-%d", id%apps)}},
			}
		default:
			peer.Namespaces = teamSelector(id)
		}
		name := fmt.Sprintf("rule-%d", i)
		if n%2 == 0 {
			cnp.Spec.Ingress = append(cnp.Spec.Ingress, clusterv1beta1.ClusterNetworkPolicyIngressRule{
				Name: name, Action: action, Protocols: protocols, From: []clusterv1beta1.ClusterNetworkPolicyIngressPeer{{Namespaces: peer.Namespaces, Pods: peer.Pods}},
			})
		} else {
			cnp.Spec.Egress = append(cnp.Spec.Egress, clusterv1beta1.ClusterNetworkPolicyEgressRule{
				Name: name, Action: action, Protocols: protocols, To: []clusterv1beta1.ClusterNetworkPolicyEgressPeer{peer},
			})
		}
	}
	return cnp
}

func teamSelector(n int) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"team": fmt.Sprintf("team-%02d", n%teams)}}
}
