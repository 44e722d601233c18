package ruleset

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// Denied says who has denied a packet. If that was a pod's chain, it names the direction and the
// pod, and the policies that isolate the pod and did not allow the packet, or that connection tracking calls
// the packet invalid. If it was a rule of a ClusterNetworkPolicy, it names the rule as well. Else it is what the rule says of itself. It is empty
// for a packet that passes.
func (t *Table) Denied(tr nft.Trace) string {
	if tr.Verdict == nft.Accept || len(tr.Steps) == 0 {
		return ""
	}
	last := denying(tr)
	if by, is := last.Rule.Origin.(PolicyRule); is {
		return fmt.Sprintf("%s of %s, by ClusterNetworkPolicy %s", by.Direction, t.subjectOf(tr, by.Direction), by.Comment())
	}
	if by, is := last.Rule.Origin.(InvalidFor); is {
		return fmt.Sprintf("%s of %s: invalid by connection tracking", by.Direction, by.Pod)
	}
	by, isolated := last.Rule.Origin.(Isolated)
	if !isolated {
		return cmp.Or(last.Rule.Comment(), last.Chain)
	}
	// The policies are read from the pod's own chain, because the chain of an address that
	// several pods have leads to no policy: see returning.
	var policies []string
	for _, rule := range t.Chains[podChain(by.Direction, by.Pod)].Rules {
		switch origin := rule.Origin.(type) {
		case IsolatedBy:
			policies = append(policies, origin.Policy.String())
		case InTier:
			if origin.Tier == policy.NetworkPolicyTier {
				for _, key := range t.stacks[rule.Verdict.Chain].policies {
					policies = append(policies, key.String())
				}
			}
		}
	}
	return fmt.Sprintf("%s of %s, by %s", by.Direction, by.Pod, strings.Join(policies, " "))
}

// denying is the step of the rule that has denied a packet. What tells denials comes behind it.
func denying(tr nft.Trace) nft.Step {
	for i := len(tr.Steps) - 1; i > 0; i-- {
		if !tells(tr.Steps[i].Chain) {
			return tr.Steps[i]
		}
	}
	return tr.Steps[0]
}

// subjectOf is the pod whose chain for a direction a packet has come to.
func (t *Table) subjectOf(tr nft.Trace, d policy.Direction) policy.Key {
	for _, step := range tr.Steps {
		for key, addrs := range t.addrs {
			if !mayName(step.Chain, key) {
				continue
			}
			ofAddr := func(addr netip.Addr) bool { return step.Chain == objectName(sharedChain(d, addr), key) }
			if step.Chain == podChain(d, key) || slices.ContainsFunc(addrs, ofAddr) {
				return key
			}
		}
	}
	return policy.Key{}
}

// mayName reports whether a chain's name may be made of a key: whether it ends with the key, which may be cut.
// To make the name instead would take a hash for each pod.
func mayName(chain string, key policy.Key) bool {
	namespace, _, has := strings.Cut(chain, "/")
	return has && strings.HasSuffix(namespace, "-"+key.Namespace)
}
