package ruleset

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

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
	// Merged are the places of the rules that were made one with this, with its own, as the comment has
	// them: "0,3-5". It is empty if there are none.
	Merged string
	// Name is what the API object calls the rule. Only rules of ClusterNetworkPolicies may have one.
	Name string
}

// Comment names the rule in its policy, whose name the chain has. Rules of ClusterNetworkPolicies may
// be in the chain of a tier, so their comment has the policy's name as well.
func (o PolicyRule) Comment() string {
	text := o.Direction.String()
	if o.Index >= 0 {
		text = fmt.Sprintf("%s[%s]", text, cmp.Or(o.Merged, strconv.Itoa(o.Index)))
	}
	if o.Policy.Namespace != "" {
		return nft.Comment(text)
	}
	text += " of " + o.Policy.Name
	if o.Name != "" {
		text += ": " + o.Name
	}
	return nft.Comment(text)
}

// mergedText is which rules a rule stands for, if it stands for more than one. Runs of three and more are
// written as ranges.
func mergedText(r policy.Rule) string {
	if len(r.Merged) == 0 {
		return ""
	}
	all := append([]int{r.Index}, r.Merged...)
	slices.Sort(all)
	var texts []string
	for i := 0; i < len(all); {
		j := i
		for j+1 < len(all) && all[j+1] == all[j]+1 {
			j++
		}
		switch j - i {
		case 0:
			texts = append(texts, strconv.Itoa(all[i]))
		case 1:
			texts = append(texts, strconv.Itoa(all[i]), strconv.Itoa(all[j]))
		default:
			texts = append(texts, fmt.Sprintf("%d-%d", all[i], all[j]))
		}
		i = j + 1
	}
	return strings.Join(texts, ",")
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

// InvalidFor is the origin of the rule that refuses what connection tracking calls invalid, for a direction
// in which policies are about a pod, of whichever kind they are.
type InvalidFor struct {
	Pod       policy.Key
	Direction policy.Direction
}

// Comment is empty: the chain has the pod's name.
func (o InvalidFor) Comment() string { return "" }

// Isolated is the origin of the rule that denies to an isolated pod what none of its policies has
// allowed.
type Isolated struct {
	Pod       policy.Key
	Direction policy.Direction
}

// Comment is empty: the chain has the pod's name.
func (o Isolated) Comment() string { return "" }
