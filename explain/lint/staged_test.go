package lint_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/explain/lint"
	"github.com/podfence/podfence/policy"
)

// TestStaged: what is found in a staged policy is marked, and a value of the annotation that stages nothing is found,
// of policies and Namespaces.
func TestStaged(t *testing.T) {
	with := func(value string) map[string]string { return map[string]string{policy.EnforcementAnnotation: value} }
	pods := metav1.LabelSelector{MatchLabels: map[string]string{"app": "wbe"}}
	np := func(namespace, name, value string) *networkingv1.NetworkPolicy {
		np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: networkingv1.NetworkPolicySpec{PodSelector: pods}}
		if value != "" {
			np.Annotations = with(value)
		}
		return np
	}
	ns := func(name, value string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: with(value)}}
	}
	pod := func(namespace string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web", Labels: map[string]string{"app": "web"}}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	}
	var got []string
	for _, f := range lint.Lint(&explain.Cluster{Snapshot: policy.Snapshot{
		Namespaces: []*corev1.Namespace{ns("shop", "enforced"), ns("db", "staged")},
		Pods:       []*corev1.Pod{pod("shop"), pod("db")},
		Policies:   []*networkingv1.NetworkPolicy{np("shop", "a", "staged"), np("shop", "b", "Staged"), np("shop", "c", ""), np("db", "d", "")},
	}}) {
		text := f.Policy() + " " + string(f.Rule)
		if f.Staged {
			text += " (staged)"
		}
		got = append(got, text)
	}
	want := []string{
		"Namespace shop enforcement-value", "db/d selects-nothing (staged)", "shop/a selects-nothing (staged)",
		"shop/b enforcement-value", "shop/b selects-nothing", "shop/c selects-nothing",
	}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

// TestStagedDNS: a staged policy that will keep its pods from the DNS is found as one in force is, and one that will
// let them hides nothing of what is in force.
func TestStagedDNS(t *testing.T) {
	dns := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "dns", Labels: map[string]string{"k8s-app": "kube-dns"}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.53", PodIPs: []corev1.PodIP{{IP: "10.0.0.53"}}},
	}
	web := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", Labels: map[string]string{"app": "web"}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}},
	}
	toWeb := networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}}
	policyOf := func(name string, staged bool, rules ...networkingv1.NetworkPolicyEgressRule) *networkingv1.NetworkPolicy {
		np := &networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
			Spec:       networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Egress"}, Egress: rules},
		}
		if staged {
			np.Annotations = map[string]string{policy.EnforcementAnnotation: policy.Staged}
		}
		return np
	}
	for _, test := range []struct {
		name     string
		policies []*networkingv1.NetworkPolicy
		want     string
	}{
		{"a staged one", []*networkingv1.NetworkPolicy{policyOf("a", true, toWeb)}, "shop/a true"},
		{"one in force, beside a staged one that allows all", []*networkingv1.NetworkPolicy{policyOf("a", false, toWeb), policyOf("b", true, networkingv1.NetworkPolicyEgressRule{})}, "shop/a false"},
		{"a staged one, beside one in force that allows all", []*networkingv1.NetworkPolicy{policyOf("a", true, toWeb), policyOf("b", false, networkingv1.NetworkPolicyEgressRule{})}, ""},
	} {
		for _, pods := range [][]*corev1.Pod{{dns, web}, {web}} { // where the DNS is known, and where it is not
			got := ""
			for _, f := range lint.Lint(&explain.Cluster{Running: true, Snapshot: policy.Snapshot{Pods: pods, Policies: test.policies}}) {
				if f.Rule == lint.NoDNS {
					got += f.Policy() + map[bool]string{true: " true", false: " false"}[f.Staged]
				}
			}
			if got != test.want {
				t.Errorf("%s, %d pods: found %q, want %q", test.name, len(pods), got, test.want)
			}
		}
	}
}
