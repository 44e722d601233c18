package clusterstatus

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/policy"
)

// ConditionAccepted is the type of the condition. The API leaves types and reasons to implementations
// so far; this type and the reason Invalid are those that the Gateway API has for policies (GEP-713).
const ConditionAccepted = "Accepted"

// The reasons of the condition Accepted.
const (
	// ReasonAccepted, with True: every field of the policy can be enforced.
	ReasonAccepted = "Accepted"
	// ReasonPartiallyInvalid, with False: some peers, ports or rules cannot be enforced. What they are
	// in allows less for that, or denies more, and all else is enforced.
	ReasonPartiallyInvalid = "PartiallyInvalid"
	// ReasonInvalid, with False: the subject or the tier cannot be read, and so no rule is enforced as
	// it is written.
	ReasonInvalid = "Invalid"
)

// maxMessage is how many bytes the message of a condition has at most. The API counts characters, of
// which it takes as many (metav1.Condition), less than what may come behind.
const maxMessage = 32768 - len(staged)

// staged is what the message of a policy says at the end that is not in force.
const staged = "; it is staged, and nothing of it is in force (annotation " + policy.EnforcementAnnotation + ")"

// conditionOf says whether podfence can enforce a policy. It has no time yet.
func conditionOf(cnp *clusterv1beta1.ClusterNetworkPolicy) metav1.Condition {
	p, problems := policy.ParseCluster(cnp)
	c := metav1.Condition{Type: ConditionAccepted, ObservedGeneration: cnp.Generation}
	if len(problems) == 0 {
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, ReasonAccepted, "podfence can enforce every field of this policy"
		if p.Staged {
			c.Message += staged
		}
		return c
	}
	c.Status, c.Reason, c.Message = metav1.ConditionFalse, ReasonPartiallyInvalid, messageOf(problems)
	for _, problem := range problems {
		if strings.HasPrefix(problem.Field, "spec.subject") || problem.Field == "spec.tier" {
			c.Reason = ReasonInvalid
		}
	}
	if p.Staged {
		c.Message += staged
	}
	return c
}

// messageOf names the fields that cannot be enforced, with the reasons. Where there is no room for
// all of them, it ends with how many more there are.
func messageOf(problems []policy.Problem) string {
	const moreAtMost = len("; and 1000000 more")
	var b strings.Builder
	for i, problem := range problems {
		text := problem.Field + ": " + problem.Reason
		if i > 0 {
			text = "; " + text
		}
		room := maxMessage - b.Len()
		if i < len(problems)-1 {
			room -= moreAtMost
		}
		if len(text) > room {
			fmt.Fprintf(&b, "; and %d more", len(problems)-i)
			break
		}
		b.WriteString(text)
	}
	return b.String()
}
