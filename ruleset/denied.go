package ruleset

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/podfence/podfence/ruleset/nft"
)

// Denied says who has denied a packet. If that was a pod's chain, it names the direction and the
// pod, and the policies that isolate the pod and did not allow the packet. Else it is what the
// rule says of itself. It is empty for a packet that passes.
func (t *Table) Denied(tr nft.Trace) string {
	if tr.Verdict == nft.Accept || len(tr.Steps) == 0 {
		return ""
	}
	last := tr.Steps[len(tr.Steps)-1]
	by, isolated := last.Rule.Origin.(Isolated)
	if !isolated {
		return cmp.Or(last.Rule.Comment(), last.Chain)
	}
	// The policies are read from the pod's own chain, because the chain of an address that
	// several pods have leads to no policy: see returning.
	var policies []string
	for _, rule := range t.Chains[podChain(by.Direction, by.Pod)].Rules {
		if jump, is := rule.Origin.(IsolatedBy); is {
			policies = append(policies, jump.Policy.String())
		}
	}
	return fmt.Sprintf("%s of %s, by %s", by.Direction, by.Pod, strings.Join(policies, " "))
}
