package clusterstatus

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
)

// The cache's informer sees that a policy is another one if its condition should be another one, though
// it has the same resourceVersion. What is told the API server is that.
func TestKeptVersions(t *testing.T) {
	keep := func(version string, peer clusterv1beta1.ClusterNetworkPolicyEgressPeer) *kept {
		t.Helper()
		cnp := &clusterv1beta1.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "a", ResourceVersion: version}}
		cnp.Spec.Tier, cnp.Spec.Subject.Namespaces = clusterv1beta1.AdminTier, &metav1.LabelSelector{}
		cnp.Spec.Egress = []clusterv1beta1.ClusterNetworkPolicyEgressRule{{
			Action: clusterv1beta1.ClusterNetworkPolicyRuleActionDeny, To: []clusterv1beta1.ClusterNetworkPolicyEgressPeer{peer},
		}}
		object, err := Keep(cnp)
		if err != nil {
			t.Fatal(err)
		}
		return object.(*kept)
	}
	whole := clusterv1beta1.ClusterNetworkPolicyEgressPeer{Nodes: &metav1.LabelSelector{}}
	pruned := clusterv1beta1.ClusterNetworkPolicyEgressPeer{}
	now := keep("7", whole)
	if now.GetResourceVersion() != keep("7", whole).GetResourceVersion() {
		t.Error("the same policy is another one")
	}
	for name, other := range map[string]*kept{"of another version": keep("8", whole), "without a field": keep("7", pruned)} {
		if other.GetResourceVersion() == now.GetResourceVersion() {
			t.Errorf("one %s is the same", name)
		}
	}
	if applied, err := statusOf(now, "v1beta1", now.Want); err != nil || applied.GetResourceVersion() != "7" {
		t.Errorf("the API server is told %v, %v", applied, err)
	}
}
