package policy_test

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
)

// TestChanges: each object of the API is a change, and so is its end; a log can name them.
func TestChanges(t *testing.T) {
	named := metav1.ObjectMeta{Namespace: "shop", Name: "web"}
	finished := &corev1.Pod{ObjectMeta: named, Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}
	attachment := policy.Attachment{ContainerID: "c1", IfName: "eth0", IPs: []netip.Addr{netip.MustParseAddr("10.244.1.2")}}
	for want, change := range map[string]policy.Change{
		"pod shop/web":                       policy.ChangeOf(&corev1.Pod{ObjectMeta: named}),
		"pod shop/web is gone":               policy.Gone(&corev1.Pod{ObjectMeta: named}),
		"pod shop/ended is gone":             policy.ChangeOf(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "ended"}, Status: finished.Status}),
		"namespace web":                      policy.ChangeOf(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "web"}}),
		"namespace web is gone":              policy.Gone(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "web"}}),
		"node web":                           policy.ChangeOf(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "web"}}),
		"node web is gone":                   policy.Gone(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "web"}}),
		"policy shop/web":                    policy.ChangeOf(&networkingv1.NetworkPolicy{ObjectMeta: named}),
		"policy shop/web is gone":            policy.Gone(&networkingv1.NetworkPolicy{ObjectMeta: named}),
		"ClusterNetworkPolicy fence":         policy.SetPolicy(policy.Policy{Key: policy.Key{Name: "fence"}}),
		"ClusterNetworkPolicy fence is gone": policy.DeletePolicy(policy.Key{Name: "fence"}),
		"attachment c1 eth0":                 policy.SetAttachment(attachment),
		"attachment c1 eth0 is gone":         policy.DeleteAttachment("c1", "eth0"),
	} {
		if change.String() != want {
			t.Errorf("%q, want %q", change, want)
		}
	}
	for want, key := range map[string]policy.Key{
		"NetworkPolicy shop/deny: spec: wrong":    {Namespace: "shop", Name: "deny"},
		"ClusterNetworkPolicy fence: spec: wrong": {Name: "fence"},
	} {
		if text := (policy.Problem{Policy: key, Field: "spec", Reason: "wrong"}).String(); text != want {
			t.Errorf("%q, want %q", text, want)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a Service is a change")
		}
	}()
	policy.ChangeOf(&corev1.Service{})
}
