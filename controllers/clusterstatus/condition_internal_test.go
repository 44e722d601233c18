package clusterstatus

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/policy"
)

// A message has as many fields as fit, whole, and says how many do not.
func TestMessage(t *testing.T) {
	problems := func(sizes ...int) (all []policy.Problem) {
		for _, size := range sizes {
			all = append(all, policy.Problem{Field: "f", Reason: strings.Repeat("r", size-len("f: "))})
		}
		return all
	}
	const end = "; and 1000000 more"
	for _, c := range []struct {
		sizes        []int
		length, more int
	}{
		{[]int{10}, 10, 0},
		{[]int{10, 10}, 22, 0},
		{[]int{maxMessage}, maxMessage, 0},
		{[]int{10, maxMessage - 12}, maxMessage, 0},
		{[]int{10, maxMessage - 11}, 10 + len("; and 1 more"), 1},
		{[]int{10, maxMessage - 12 - len(end), 20}, maxMessage - len(end) + len("; and 1 more"), 1},
		{[]int{10, maxMessage - 11 - len(end), 20}, 10 + len("; and 2 more"), 2},
		{[]int{10, maxMessage - 12 - len(end), len(end) - 2}, maxMessage, 0},
	} {
		got := messageOf(problems(c.sizes...))
		if len(got) != c.length || c.more > 0 != strings.HasSuffix(got, fmt.Sprintf("; and %d more", c.more)) {
			t.Errorf("%v: %d bytes, want %d; it ends with %q", c.sizes, len(got), c.length, got[max(0, len(got)-30):])
		}
	}
	var many []int
	for range 100_000 {
		many = append(many, 100)
	}
	if got := messageOf(problems(many...)); len(got) > maxMessage || !strings.HasSuffix(got, " more") {
		t.Errorf("%d bytes: %q", len(got), got[len(got)-30:])
	}
}

// The reason says whether a part of the policy is wrong, or what all of its rules depend on.
func TestReasons(t *testing.T) {
	everybody := clusterv1beta1.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}}
	unread := &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}}
	rules := []clusterv1beta1.ClusterNetworkPolicyIngressRule{{Action: "Deny", From: []clusterv1beta1.ClusterNetworkPolicyIngressPeer{{Namespaces: unread}}}}
	for _, c := range []struct {
		name, reason, field string
		status              metav1.ConditionStatus
		spec                clusterv1beta1.ClusterNetworkPolicySpec
	}{
		{"nothing", ReasonAccepted, "", metav1.ConditionTrue, clusterv1beta1.ClusterNetworkPolicySpec{Tier: "Admin", Subject: everybody}},
		{"a peer", ReasonPartiallyInvalid, "spec.ingress[0].from[0].namespaces: ", metav1.ConditionFalse, clusterv1beta1.ClusterNetworkPolicySpec{Tier: "Baseline", Subject: everybody, Ingress: rules}},
		{"the tier", ReasonInvalid, "spec.tier: ", metav1.ConditionFalse, clusterv1beta1.ClusterNetworkPolicySpec{Tier: "Default", Subject: everybody}},
		{"the tier and a peer", ReasonInvalid, "; spec.ingress[0].from[0].namespaces: ", metav1.ConditionFalse, clusterv1beta1.ClusterNetworkPolicySpec{Tier: "Default", Subject: everybody, Ingress: rules}},
		{"no subject", ReasonInvalid, "spec.subject: ", metav1.ConditionFalse, clusterv1beta1.ClusterNetworkPolicySpec{Tier: "Admin"}},
		{"a selector of the subject", ReasonInvalid, "spec.subject.pods.podSelector: ", metav1.ConditionFalse, clusterv1beta1.ClusterNetworkPolicySpec{
			Tier: "Admin", Subject: clusterv1beta1.ClusterNetworkPolicySubject{Pods: &clusterv1beta1.NamespacedPod{PodSelector: *unread}},
		}},
	} {
		got := conditionOf(&clusterv1beta1.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Generation: 7}, Spec: c.spec})
		if got.Type != ConditionAccepted || got.Status != c.status || got.Reason != c.reason || got.ObservedGeneration != 7 || !strings.Contains(got.Message, c.field) {
			t.Errorf("%s: %+v", c.name, got)
		}
		says := strings.Contains(got.Message, "staged")
		o := metav1.ObjectMeta{Annotations: map[string]string{policy.EnforcementAnnotation: policy.Staged}}
		whole := conditionOf(&clusterv1beta1.ClusterNetworkPolicy{ObjectMeta: o, Spec: c.spec})
		if says || !strings.HasSuffix(whole.Message, staged) || whole.Status != got.Status || whole.Reason != got.Reason {
			t.Errorf("%s, staged: %+v", c.name, whole)
		}
	}
}
