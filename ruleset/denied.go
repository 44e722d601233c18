package ruleset

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/podfence/podfence/ruleset/nft"
)

// Denied says who has denied a packet: the pod and the direction, with the policies that
// isolate it and did not allow the packet; or, where that was no pod's chain, what the rule
// says of itself. It is empty for a packet that passes.
func (t *Table) Denied(tr nft.Trace) string {
	if tr.Verdict == nft.Accept || len(tr.Steps) == 0 {
		return ""
	}
	last := tr.Steps[len(tr.Steps)-1]
	by, isolated := last.Rule.Origin.(Isolated)
	if !isolated {
		return cmp.Or(last.Rule.Comment(), last.Chain)
	}
	// The chain of an address that several pods have leads to no policy: see returning.
	var policies []string
	for _, rule := range t.Chains[podChain(by.Direction, by.Pod)].Rules {
		if jump, is := rule.Origin.(IsolatedBy); is {
			policies = append(policies, jump.Policy.String())
		}
	}
	return fmt.Sprintf("%s of %s, by %s", by.Direction, by.Pod, strings.Join(policies, " "))
}
