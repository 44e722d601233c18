//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
)

// cutWithin is how long something may still pass on a connection that is not allowed any more.
const cutWithin = 2 * time.Second

// TestClusterPoliciesCutFlows: a connection that a ClusterNetworkPolicy denies from now on is cut within
// two seconds, on one node and across, whichever tier and end the policy is at and whatever has changed;
// others go on. And agents that are killed or replaced let nothing pass that policies deny.
func TestClusterPoliciesCutFlows(t *testing.T) {
	withoutKind(t)
	installKind(t, channel(t, "standard"), "v1beta1")
	api := clusterAPI(t, "v1beta1")
	b := newBorder(t)
	b.talk(t)
	inside, outside := named(b.inside), named(b.outside)

	for _, c := range []struct {
		name string
		// before is a policy that is there before the flows are, with its spec, and after one that is
		// created when they are there; either may be missing. intruders says that outsiders are
		// labelled so then.
		before, after string
		intruders     bool
	}{
		{name: "Admin, ingress of the receiver",
			after: fmt.Sprintf(`{tier: Admin, priority: 0, subject: {namespaces: %s}, ingress: [{action: Deny, from: [{namespaces: %s}]}]}`, inside, outside)},
		{name: "Baseline, egress of the sender",
			after: fmt.Sprintf(`{tier: Baseline, priority: 1000, subject: {namespaces: %s}, egress: [{action: Deny, to: [{namespaces: %s}]}]}`, outside, inside)},
		{name: "Admin, before a policy that accepts",
			before: fmt.Sprintf(`{tier: Admin, priority: 2, subject: {namespaces: %s}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}`, inside),
			after:  fmt.Sprintf(`{tier: Admin, priority: 1, subject: {namespaces: %s}, ingress: [{action: Deny, from: [{namespaces: %s}], protocols: [{tcp: {destinationPort: {number: 8080}}}]}]}`, inside, outside)},
		{name: "a label by which a policy means the peer",
			before:    fmt.Sprintf(`{tier: Admin, priority: 1, subject: {namespaces: %s}, ingress: [{action: Deny, from: [{pods: {podSelector: {matchLabels: {role: intruder}}}}]}]}`, inside),
			intruders: true},
		{name: "a label by which a policy is about the sender",
			before:    fmt.Sprintf(`{tier: Admin, priority: 1, subject: {pods: {podSelector: {matchLabels: {role: intruder}}}}, egress: [{action: Deny, to: [{namespaces: %s}]}]}`, inside),
			intruders: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var policies []*clusterv1beta1.ClusterNetworkPolicy
			policy := func(name, spec string) {
				if spec == "" {
					return
				}
				cnp := clusterPolicy(t, name, spec)
				createPolicies(t, api, cnp)
				policies = append(policies, cnp)
			}
			policy("e2e-before", c.before)
			b.expectOpen(t, "the border to be open before the change")
			var inward, outward []*pulse
			for _, outsider := range b.outsiders.pods {
				for _, insider := range b.insiders.pods {
					for i, ip := range podIPs(insider) {
						inward = append(inward, keepPulse(t, outsider.Name+" to "+insider.Name, netnsOf(t, outsider), ip))
						outward = append(outward, keepPulse(t, insider.Name+" to "+outsider.Name, netnsOf(t, insider), podIPs(outsider)[i]))
					}
				}
			}
			policy("e2e-after", c.after)
			if c.intruders {
				label(t, "role", "intruder", b.outsiders.pods...)
			}
			changed := time.Now()
			time.Sleep(cutWithin + time.Second)
			for _, p := range inward {
				if last := p.answered(); last.After(changed.Add(cutWithin)) {
					t.Errorf("%s, which is denied: answered %s after the change", p.name, last.Sub(changed).Round(time.Millisecond))
				}
			}
			for _, p := range outward {
				if last := p.answered(); time.Since(last) > cutWithin {
					t.Errorf("%s, which nobody denies: answered for the last time %s ago", p.name, time.Since(last).Round(time.Millisecond))
				}
			}
			t.Logf("of %d connections that are denied, the last answer came %s after the change", len(inward), lastOf(inward).Sub(changed).Round(time.Millisecond))
			deletePolicies(t, api, policies...)
			if c.intruders {
				label(t, "role", "none", b.outsiders.pods...)
			}
		})
	}

	b.expectOpen(t, "the border to be open without policies")
	createPolicies(t, api, b.closing(t)...)
	b.expectClosed(t, "policies to close the border")
	crashAgents(t)
	b.expectStillClosed(t, "agents are killed, and start again")
	replaceAgents(t)
	b.expectStillClosed(t, "agents are replaced")
	b.check(t)
}

// lastOf is when the last one of some connections was answered.
func lastOf(pulses []*pulse) (last time.Time) {
	for _, p := range pulses {
		if at := p.answered(); at.After(last) {
			last = at
		}
	}
	return last
}

// label gives pods a label, in the API.
func label(t *testing.T, key, value string, pods ...*corev1.Pod) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%q}}}`, key, value)
	for _, pod := range pods {
		if _, err := client.CoreV1().Pods(pod.Namespace).Patch(context.Background(), pod.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}
