package ruleset

import (
	"slices"
	"strings"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// ReasonOf says why a rule denies packets, and for which direction of a pod's rules. The direction is
// empty where no pod's own rules deny: those that keep up order say nothing about it. Both are empty for
// a rule that denies nothing.
func ReasonOf(rule nft.Rule) (flows.Direction, flows.Reason) {
	if !denies(rule) {
		return "", ""
	}
	switch origin := rule.Origin.(type) {
	case PolicyRule:
		return directionOf(origin.Direction), flows.ByRule
	case Isolated:
		return directionOf(origin.Direction), flows.DefaultDeny
	case InvalidFor:
		return directionOf(origin.Direction), flows.Invalid
	case nft.Sentence:
		return "", reasons[origin]
	}
	if refusesInvalid(rule) { // for a pod that policies are about in the other direction alone
		return "", flows.Invalid
	}
	return "", ""
}

// refusesInvalid reports whether a rule is for what connection tracking calls invalid.
func refusesInvalid(rule nft.Rule) bool {
	return slices.ContainsFunc(rule.Matches, func(m nft.Match) bool { return m == nft.Match(nft.Invalid) })
}

func directionOf(d policy.Direction) flows.Direction {
	if d == policy.Egress {
		return flows.Egress
	}
	return flows.Ingress
}

// reasons are those of the rules that say in a sentence what they are for, in all of podfence's tables.
var reasons = map[nft.Sentence]flows.Reason{
	"a container whose pod is not known":                              flows.UnknownPod,
	"no pod known by this address":                                    flows.UnknownPod,
	"nobody can tell which pod has this address, or what that pod is": flows.UnknownPod,
	"a first fragment without an upper-layer header":                  flows.Invalid,
	"begins no connection":                                            flows.BeginsNoConnection,
	"a policy has changed: no longer allowed":                         flows.Revoked,
	"a pod's source, from where its route does not lead":              flows.Spoofed,
	"a loopback address, but not on the loopback device":              flows.Spoofed,
	"an ICMP error, but not about a flow of the pod's own":            flows.Spoofed,
	"an ICMP error, but not from the pod's own address":               flows.Spoofed,
	"an authentication header, but not from the pod's own address":    flows.Spoofed,
	"another pod's":            flows.Spoofed,
	"for one, but sent to all": flows.Spoofed,
	"for the bridge alone":     flows.Spoofed,
	"from a group":             flows.Spoofed,
	"in another pod's name":    flows.Spoofed,

	"for routers":                                               flows.Spoofed,
	"for the node alone":                                        flows.Spoofed,
	"neighbour discovery, but routed":                           flows.Spoofed,
	"not as neighbour discovery is":                             flows.Spoofed,
	"neither IP nor ARP":                                        flows.Spoofed,
	"in a tag, where no policy sees it":                         flows.Spoofed,
	"not a pod's to send":                                       flows.Spoofed,
	"not from the pod's own address":                            flows.Spoofed,
	"not to the pod's own address":                              flows.Spoofed,
	"not to the gateway, or not from the pod's own address":     flows.Spoofed,
	"not with the gateway, or not with the pod's own addresses": flows.Spoofed,
	"round the bridge":                                          flows.Spoofed,
	"into the tunnel, but not between nodes":                    flows.NotANode,
	"into the tunnel, by destination NAT":                       flows.NotANode,
	"into a tunnel, as if from this node":                       flows.NotANode,
	"the pod has too many connections":                          flows.TooMany,
	"too many fragments":                                        flows.TooMany,
	"too many ICMP errors":                                      flows.TooMany,
}

// ReasonOfComment is why a rule denies that has this comment in the kernel; empty: it is not one of podfence's, or
// not about order.
func ReasonOfComment(comment string) flows.Reason { return reasons[nft.Sentence(comment)] }

// PolicyCount says what a rule's counter counts of policies.
type PolicyCount struct {
	// Policies are those that it counts for: the one whose rule it is, or, of a default deny, all that
	// isolate the pod.
	Policies  []policy.Key
	Direction flows.Direction
	// Denied packets, or else allowed ones. Only first packets of connections come to a rule that allows.
	Verdict flows.Verdict
}

// CountOf says what the counter of a rule counts of policies, in a table with these chains; ok is false
// if that is nothing. Rules that pass are left out: others decide about their packets.
func CountOf(chains map[string]*nft.Chain, chain string, rule nft.Rule) (count PolicyCount, ok bool) {
	if !rule.Counter {
		return PolicyCount{}, false
	}
	switch origin := rule.Origin.(type) {
	case PolicyRule:
		count = PolicyCount{Policies: []policy.Key{origin.Policy}, Direction: directionOf(origin.Direction)}
		switch {
		case denies(rule):
			count.Verdict = flows.Denied
		case rule.Verdict.Action == nft.Accept:
			count.Verdict = flows.Allowed
		case rule.Verdict.Action == nft.Return: // where several pods have an address, what one's policies allow goes on to the others'
			if !isOfSharedAddr(chain) {
				return PolicyCount{}, false
			}
			count.Verdict = flows.Allowed
		default:
			return PolicyCount{}, false
		}
		return count, true
	case Isolated:
		return PolicyCount{Policies: isolating(chains, origin), Direction: directionOf(origin.Direction), Verdict: flows.Denied}, true
	}
	return PolicyCount{}, false
}

// isolating are the NetworkPolicies that isolate a pod for a direction, by the pod's own chain: the chain
// of an address that several pods have leads to no policy (see returning).
func isolating(chains map[string]*nft.Chain, of Isolated) (policies []policy.Key) {
	chain := chains[podChain(of.Direction, of.Pod)]
	if chain == nil {
		return nil
	}
	for _, rule := range chain.Rules {
		switch origin := rule.Origin.(type) {
		case IsolatedBy:
			policies = append(policies, origin.Policy)
		case InTier:
			if origin.Tier != policy.NetworkPolicyTier || chains[rule.Verdict.Chain] == nil {
				continue
			}
			for _, lead := range chains[rule.Verdict.Chain].Rules {
				if by, is := lead.Origin.(IsolatedBy); is {
					policies = append(policies, by.Policy)
				}
			}
		}
	}
	return policies
}

// isOfSharedAddr reports whether a chain is one of those of an address that several pods have.
func isOfSharedAddr(chain string) bool {
	return strings.HasPrefix(chain, sharedPrefix) || strings.HasPrefix(chain, thenPrefix+sharedPrefix)
}
