package ruleset

import (
	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/policy"
)

// Decided is a rule of a policy that has decided about a packet, with the tier of the policy.
type Decided struct {
	PolicyRule
	Tier policy.Tier
}

// decided is a rule that has decided, by the table as it is.
func (t *Table) decided(rule PolicyRule) Decided {
	d := Decided{PolicyRule: rule, Tier: policy.NetworkPolicyTier}
	if p := t.clusterPolicies[rule.Policy]; p != nil {
		d.Tier = p.Tier
	}
	return d
}

// FlowPolicy is the rule's policy, and the rule, as flows name them. It has no rule if that stands for all of
// its policy, or was made one with others of the policy, as nobody can tell any more which of them has decided.
func (d Decided) FlowPolicy() flows.Policy {
	p := flows.Policy{Kind: "NetworkPolicy", Tier: flowTier(d.Tier), Namespace: d.Policy.Namespace, Name: d.Policy.Name, RuleName: d.Name}
	if d.Policy.Namespace == "" {
		p.Kind = "ClusterNetworkPolicy"
	}
	if index := d.Index; index >= 0 && d.Merged == "" {
		p.Rule = &index
	}
	return p
}

// FlowDirection is the rule's direction as flows name it.
func (d Decided) FlowDirection() flows.Direction { return directionOf(d.Direction) }

// flowTier is a tier as flows name it.
func flowTier(t policy.Tier) string {
	switch t {
	case policy.AdminTier:
		return "Admin"
	case policy.BaselineTier:
		return "Baseline"
	}
	return "NetworkPolicy"
}
