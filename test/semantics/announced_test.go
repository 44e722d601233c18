package semantics_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// TestA29_AnnouncedByItsNode: a pod of another node is a peer at the addresses that its own node's
// agent announces, before its status shows any; not at those that anybody else does, and not at
// addresses that are this node's to give.
func TestA29_AnnouncedByItsNode(t *testing.T) {
	text := base + `
		pod shop/new app=web @node-2
		policy db/p {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}]}],
			egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}]}]}`
	said := func(node string, change ...func(*v1alpha1.PodAddress)) policy.Snapshot {
		s := snapshot(t, text)
		s.Node = random.Node
		fresh := s.Pods[slices.IndexFunc(s.Pods, func(p *corev1.Pod) bool { return p.Name == "new" })]
		one := v1alpha1.PodAddress{Namespace: fresh.Namespace, Name: fresh.Name, UID: fresh.UID}
		for _, ip := range fresh.Status.PodIPs {
			one.IPs = append(one.IPs, ip.IP)
		}
		fresh.Status.PodIPs = nil
		for _, f := range change {
			f(&one)
		}
		s.PodAddresses = []*v1alpha1.PodAddresses{{ObjectMeta: metav1.ObjectMeta{Name: node}, Pods: []v1alpha1.PodAddress{one}}}
		return s
	}
	known := `
		allow shop/new -> db/pg tcp 80
		allow db/pg -> shop/new tcp 80
	`
	unknown := `
		deny shop/new -> db/pg tcp 80
		deny db/pg -> shop/new tcp 80
	`
	c := cluster(t, text)
	c.expect(known) // as its status shows
	for name, step := range map[string]struct {
		s      policy.Snapshot
		expect string
	}{
		"by its own node":        {said(random.OtherNode), known},
		"by another node":        {said(random.Node), unknown},
		"of an earlier pod":      {said(random.OtherNode, func(p *v1alpha1.PodAddress) { p.UID = "earlier" }), unknown},
		"of another address too": {said(random.OtherNode, func(p *v1alpha1.PodAddress) { p.IPs = append(p.IPs, random.PodAddrs(99, random.Node)[0].String()) }), unknown},
	} {
		t.Log(name)
		c.set(step.s)
		c.expect(step.expect)
	}
}
