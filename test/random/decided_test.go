package random_test

import (
	"math/rand"
	"slices"
	"strings"
	"testing"

	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// TestEveryWayOfDecidingComesUp: in clusters and packets that are drawn, every tier decides, in
// every way.
func TestEveryWayOfDecidingComesUp(t *testing.T) {
	var packets random.Coverage
	for seed := range int64(300) {
		r := rand.New(rand.NewSource(seed))
		s := random.Snapshot(random.History(r, 80))
		if seed%2 == 0 {
			s = random.Cluster(r, 12, 8)
		}
		for range 100 {
			v := policy.Judge(s, random.Packet(r, s), policy.JudgeOptions{})
			packets.Count(decidedBy(s, v.Egress, v.Ingress))
		}
	}
	t.Log(packets.Table("packets"))
	for _, name := range packets.Missing() {
		t.Errorf("no packet was %q", name)
	}
}

// decidedBy says in which ways the two sides of a packet were decided.
func decidedBy(s policy.Snapshot, sides ...policy.Judgement) map[string]bool {
	decided := map[string]bool{}
	has := func(name string, is func(policy.Judgement) bool) { decided[name] = slices.ContainsFunc(sides, is) }
	by := func(rules []policy.RuleRef, tier clusterv1beta1.Tier) bool {
		return slices.ContainsFunc(rules, func(rule policy.RuleRef) bool {
			return rule.Policy.Namespace == "" && slices.ContainsFunc(s.ClusterPolicies, func(cnp *clusterv1beta1.ClusterNetworkPolicy) bool {
				return cnp.Name == rule.Policy.Name && cnp.Spec.Tier == tier
			})
		})
	}
	for _, tier := range []clusterv1beta1.Tier{clusterv1beta1.AdminTier, clusterv1beta1.BaselineTier} {
		has("accepted by the tier "+string(tier), func(j policy.Judgement) bool { return by(j.By, tier) })
		has("denied by the tier "+string(tier), func(j policy.Judgement) bool { return by(j.DeniedBy, tier) && j.Reason == "" })
		has("accepted by the tier "+string(tier)+", though a NetworkPolicy isolates", func(j policy.Judgement) bool { return by(j.By, tier) && len(j.Isolating) > 0 })
		for _, reason := range []string{"not all of it can be read", "its action is not known", "the pod's Namespace is not known", "nobody can tell who has"} {
			has("denied by the tier "+string(tier)+", as "+reason, func(j policy.Judgement) bool {
				return by(j.DeniedBy, tier) && strings.Contains(j.Reason, reason)
			})
		}
	}
	delete(decided, "accepted by the tier Baseline, though a NetworkPolicy isolates") // cannot be
	has("denied, as the tier is not known", func(j policy.Judgement) bool { return strings.Contains(j.Reason, "tier is not known") })
	has("left to NetworkPolicies, which allow", func(j policy.Judgement) bool {
		return len(j.Selecting) > 0 && len(j.By) > 0 && j.By[0].Policy.Namespace != ""
	})
	has("left to NetworkPolicies, which deny", func(j policy.Judgement) bool {
		return len(j.Selecting) > 0 && len(j.Isolating) > 0 && !j.Allowed && len(j.DeniedBy) == 0
	})
	has("left to nobody", func(j policy.Judgement) bool { return len(j.Selecting) > 0 && j.Allowed && len(j.By) == 0 })
	return decided
}
