package ruleset

import (
	"fmt"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// The origins say what the rules of pods', tiers' and policies' chains are for. All other rules are
// podfence's own, and say it in a sentence (nft.Sentence).

// PolicyRule is the origin of the kernel rules that a rule of a policy has become.
type PolicyRule struct {
	Policy    policy.Key
	Direction policy.Direction
	// Index is the rule's place in the API object's list. It is negative if the rule stands for all
	// of a ClusterNetworkPolicy that is quarantined.
	Index int
	// Name is what the API object calls the rule. Only rules of ClusterNetworkPolicies may have one.
	Name string
}

// Comment names the rule in its policy, whose name the chain has. Rules of ClusterNetworkPolicies may
// be in the chain of a tier, so their comment has the policy's name as well.
func (o PolicyRule) Comment() string {
	if o.Policy.Namespace != "" {
		return fmt.Sprintf("%s[%d]", o.Direction, o.Index)
	}
	text := fmt.Sprintf("%s of %s", o.Direction, o.Policy.Name)
	if o.Index >= 0 {
		text = fmt.Sprintf("%s[%d] of %s", o.Direction, o.Index, o.Policy.Name)
	}
	if o.Name != "" {
		text += ": " + o.Name
	}
	return nft.Comment(text)
}

// InTier is the origin of the rule in a pod's chain that leads to the policies of a tier.
type InTier struct {
	Tier      policy.Tier
	Direction policy.Direction
}

// Comment is empty: the chain that the rule leads to has the tier's name.
func (o InTier) Comment() string { return "" }

// InStack is the origin of the rule in a tier's chain that leads to a ClusterNetworkPolicy.
type InStack struct{ Policy policy.Key }

// Comment is empty: the chain that the rule leads to has the policy's name.
func (o InStack) Comment() string { return "" }

// IsolatedBy is the origin of the rule in a pod's chain, or in that of its NetworkPolicies, that leads to
// one that isolates the pod.
type IsolatedBy struct{ Policy policy.Key }

// Comment is empty: the chain that the rule leads to has the policy's name.
func (o IsolatedBy) Comment() string { return "" }

// Isolated is the origin of the rules that deny to an isolated pod what none of its policies has
// allowed.
type Isolated struct {
	Pod       policy.Key
	Direction policy.Direction
}

// Comment is empty: the chain has the pod's name.
func (o Isolated) Comment() string { return "" }
