package semantics_test

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/lab"
)

func TestA49_StagedPoliciesDecideNothing(t *testing.T) {
	text := base + `
		policy db/in {podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {team: store}}}]}]}
		cnp fence {tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: store}}}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: data}}}]}]}`
	c := clusterWith(t, lab.Routed, ruleset.Options{LogGroup: agreement.LogGroup}, text)
	inForce := `
		allow shop/web -> db/pg tcp 5432
		deny  ops/cron -> db/pg tcp 5432
		deny  db/pg -> shop/web tcp 80
	`
	c.expect(inForce)
	stage := func(o *metav1.ObjectMeta, value string) {
		o.Annotations = map[string]string{policy.EnforcementAnnotation: value}
	}
	// With the annotation on both, all passes, and the node tells of what would be denied, which the check compares.
	s := snapshot(t, text)
	stage(&s.Policies[0].ObjectMeta, policy.Staged)
	stage(&s.ClusterPolicies[0].ObjectMeta, policy.Staged)
	told := c.ToldStaged
	c.set(s)
	c.expect(`
		allow shop/web -> db/pg tcp 5432
		allow ops/cron -> db/pg tcp 5432
		allow db/pg -> shop/web tcp 80
	`)
	if c.ToldStaged == told {
		t.Error("the node tells of nothing that would be denied")
	}
	// What the rules of both ends would deny, both tell.
	s = snapshot(t, text+`
		policy ops/out {podSelector: {}, policyTypes: [Egress]}`)
	for i := range s.Policies {
		stage(&s.Policies[i].ObjectMeta, policy.Staged)
	}
	c.set(s)
	c.expect("allow ops/cron -> db/pg tcp 5433")
	// On a Namespace it stages the NetworkPolicies there, and no ClusterNetworkPolicy.
	s = snapshot(t, text)
	for _, ns := range s.Namespaces {
		stage(&ns.ObjectMeta, policy.Staged)
	}
	c.set(s)
	c.expect(`
		allow ops/cron -> db/pg tcp 5432
		deny  db/pg -> shop/web tcp 80
	`)
	// Any other value stages nothing.
	s = snapshot(t, text)
	stage(&s.Policies[0].ObjectMeta, "Staged")
	stage(&s.ClusterPolicies[0].ObjectMeta, "enforced")
	c.set(s)
	c.expect(inForce)
}
