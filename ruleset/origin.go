package ruleset

import (
	"fmt"

	"github.com/podfence/podfence/policy"
)

// The origins say what the rules of pods' and policies' chains are for. All other rules are
// podfence's own, and say it in a sentence (nft.Sentence).

// PolicyRule is the origin of the kernel rules that a rule of a policy has become.
type PolicyRule struct {
	Policy    policy.Key
	Direction policy.Direction
	// Index is the rule's place in the API object's list.
	Index int
}

// Comment names the rule in its policy, whose name the chain has.
func (o PolicyRule) Comment() string { return fmt.Sprintf("%s[%d]", o.Direction, o.Index) }

// IsolatedBy is the origin of the rule in a pod's chain that leads to a policy that isolates
// the pod.
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
