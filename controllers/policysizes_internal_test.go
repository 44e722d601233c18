package controllers

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
)

// largePolicy is a policy with a rule of so many bytes of memory.
func largePolicy(namespace, name string, bytes int) *networkingv1.NetworkPolicy {
	var values []string
	for i := range bytes / (thingBytes + 65) {
		values = append(values, fmt.Sprintf("%063d", i))
	}
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"a": "b"}},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{
				PodSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "x", Operator: metav1.LabelSelectorOpIn, Values: values}}},
			}}}},
		},
	}
}

// TestPolicySizes: what the cache keeps of one namespace's policies has a limit, and of all
// namespaces' too, which is the large ones' to keep. What it does not keep isolates the same
// pods, and is a problem.
func TestPolicySizes(t *testing.T) {
	s := newPolicySizes()
	s.namespace, s.all = 110<<10, 330<<10
	kept := func(np *networkingv1.NetworkPolicy) bool {
		t.Helper()
		before, after := np.DeepCopy(), s.keep(np)
		wanted, _ := policy.Parse(before)
		have, problems := parsePolicy(after)
		if len(after.Spec.Ingress) > 0 {
			if !reflect.DeepEqual(have, wanted) || len(problems) != 0 {
				t.Errorf("%s is read as %v, %v", np.Name, have, problems)
			}
			return true
		}
		if !reflect.DeepEqual(have, wanted.WithoutRules()) && !reflect.DeepEqual(have.Rules, [2][]policy.Rule{}) || have.Isolates != wanted.Isolates || *have.Subject != *wanted.Subject {
			t.Errorf("%s, which is not kept, is read as %v", np.Name, have)
		}
		if len(problems) != 1 || !strings.Contains(problems[0].Reason, "32 MB") {
			t.Errorf("%s: problems %v", np.Name, problems)
		}
		if again := s.keep(after.DeepCopy()); !reflect.DeepEqual(again, after) {
			t.Errorf("kept once it is %v, and twice %v", after, again)
		}
		return false
	}
	for i := range 9 {
		if !kept(largePolicy("shop", fmt.Sprint(i), 10<<10)) {
			t.Fatalf("the policy %d is not kept", i)
		}
	}
	if kept(largePolicy("shop", "more", 10<<10)) {
		t.Error("a namespace's policies are kept without a limit")
	}
	if !kept(largePolicy("shop", "8", 9<<10)) || !kept(largePolicy("bank", "1", 10<<10)) {
		t.Error("what makes nothing larger is not kept, or another namespace's")
	}
	s.forget(policy.Key{Namespace: "shop", Name: "0"})
	s.forget(policy.Key{Namespace: "shop", Name: "1"})
	if !kept(largePolicy("shop", "more", 10<<10)) {
		t.Error("there is room again")
	}

	for _, namespace := range []string{"one", "two"} {
		for i := range 9 {
			kept(largePolicy(namespace, fmt.Sprint(i), 10<<10))
		}
	}
	if s.total > 360<<10 {
		t.Errorf("%d bytes are kept of all", s.total)
	}
	if !kept(largePolicy("small", "1", 1<<10)) {
		t.Error("who has little pays for who has much")
	}

	wide := largePolicy("shop", "wide", 10<<10)
	wide.Spec.PodSelector.MatchLabels = map[string]string{}
	for i := range 500 {
		wide.Spec.PodSelector.MatchLabels[fmt.Sprint("label-", i)] = "value"
	}
	wide.Spec.PolicyTypes = nil
	wide.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{}}
	if p, _ := parsePolicy(s.keep(wide)); p.Subject.Pods != "" || p.Isolates != [2]bool{true, true} {
		t.Errorf("a policy whose selector of pods is not kept selects %v, %v", p.Subject, p.Isolates)
	}
	// What is empty takes few bytes to send, and many to keep.
	empty := largePolicy("void", "rules", 0)
	empty.Spec.Ingress = make([]networkingv1.NetworkPolicyIngressRule, 5_000)
	if kept(empty) {
		t.Error("thousands of empty rules are kept as if they took no memory")
	}
	empty.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: make([]networkingv1.NetworkPolicyPeer, 5_000), Ports: make([]networkingv1.NetworkPolicyPort, 5_000)}}
	if kept(empty) {
		t.Error("so are empty peers and ports")
	}
	for namespace, names := range s.sizes {
		for name := range names {
			s.forget(policy.Key{Namespace: namespace, Name: name})
		}
	}
	if s.total != 0 || len(s.taken)+len(s.sizes) != 0 {
		t.Errorf("left are %d bytes, %v", s.total, s.taken)
	}
}
