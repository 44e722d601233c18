package random

import (
	"net/netip"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/policy"
)

// clusterRule is a rule of a ClusterNetworkPolicy, of either direction.
type clusterRule struct {
	name      string
	action    clusterAction
	peers     []clusterPeer
	protocols []clusterProtocol
	ingress   bool
}

// clusterRulesOf are a ClusterNetworkPolicy's.
func clusterRulesOf(cnp *clusterv1beta1.ClusterNetworkPolicy) (rules []clusterRule) {
	for _, r := range cnp.Spec.Ingress {
		rule := clusterRule{name: r.Name, action: r.Action, protocols: r.Protocols, ingress: true}
		for _, from := range r.From {
			rule.peers = append(rule.peers, clusterPeer{Namespaces: from.Namespaces, Pods: from.Pods})
		}
		rules = append(rules, rule)
	}
	for _, r := range cnp.Spec.Egress {
		rules = append(rules, clusterRule{name: r.Name, action: r.Action, peers: r.To, protocols: r.Protocols})
	}
	return rules
}

func clusterPolicyFeatures(s policy.Snapshot, f map[string]bool) {
	has := func(name string, is func(*clusterv1beta1.ClusterNetworkPolicy) bool) {
		f["cluster policy: "+name] = some(s.ClusterPolicies, is)
	}
	f["cluster policy: none"] = len(s.ClusterPolicies) == 0
	for _, tier := range tiers {
		has("of the tier "+string(tier), func(cnp *clusterv1beta1.ClusterNetworkPolicy) bool { return cnp.Spec.Tier == tier })
		has("of the tier "+string(tier)+", with another's priority", func(cnp *clusterv1beta1.ClusterNetworkPolicy) bool {
			return cnp.Spec.Tier == tier && some(s.ClusterPolicies, func(other *clusterv1beta1.ClusterNetworkPolicy) bool {
				return other != cnp && other.Spec.Tier == tier && other.Spec.Priority == cnp.Spec.Priority
			})
		})
	}
	has("of an unknown tier", func(cnp *clusterv1beta1.ClusterNetworkPolicy) bool { return !slices.Contains(tiers, cnp.Spec.Tier) })
	has("its subject is namespaces", func(cnp *clusterv1beta1.ClusterNetworkPolicy) bool {
		return cnp.Spec.Subject.Namespaces != nil && cnp.Spec.Subject.Pods == nil
	})
	has("its subject is pods", func(cnp *clusterv1beta1.ClusterNetworkPolicy) bool {
		return cnp.Spec.Subject.Namespaces == nil && cnp.Spec.Subject.Pods != nil
	})
	has("it has no subject", func(cnp *clusterv1beta1.ClusterNetworkPolicy) bool {
		return cnp.Spec.Subject.Namespaces == nil && cnp.Spec.Subject.Pods == nil
	})
	has("it has two subjects", func(cnp *clusterv1beta1.ClusterNetworkPolicy) bool {
		return cnp.Spec.Subject.Namespaces != nil && cnp.Spec.Subject.Pods != nil
	})
	has("its subject's selector is not valid", func(cnp *clusterv1beta1.ClusterNetworkPolicy) bool {
		return some(podSelectors(cnp.Spec.Subject.Namespaces, cnp.Spec.Subject.Pods), isSpoiled)
	})
	has("of one direction", func(cnp *clusterv1beta1.ClusterNetworkPolicy) bool {
		return (len(cnp.Spec.Ingress) == 0) != (len(cnp.Spec.Egress) == 0)
	})
	clusterRuleFeatures(s, f)
}

func clusterRuleFeatures(s policy.Snapshot, f map[string]bool) {
	var rules []clusterRule
	for _, cnp := range s.ClusterPolicies {
		rules = append(rules, clusterRulesOf(cnp)...)
	}
	has := func(name string, is func(clusterRule) bool) { f["cluster rule: "+name] = some(rules, is) }
	for _, action := range actions[:3] {
		of := func(is func(clusterRule) bool) func(clusterRule) bool {
			return func(r clusterRule) bool { return r.action == action && is(r) }
		}
		has(string(action), of(func(r clusterRule) bool { return true }))
		has(string(action)+", with networks alone", of(func(r clusterRule) bool {
			return !some(r.peers, func(p clusterPeer) bool { return len(p.Networks) == 0 })
		}))
		has(string(action)+", with nodes alone", of(func(r clusterRule) bool {
			return len(r.peers) > 0 && !some(r.peers, func(p clusterPeer) bool { return p.Nodes == nil })
		}))
		has(string(action)+", with a name of the peer's", of(func(r clusterRule) bool { return !r.ingress && some(r.protocols, isNamed) }))
		has(string(action)+", with a name of the subject's", of(func(r clusterRule) bool { return r.ingress && some(r.protocols, isNamed) }))
		has(string(action)+", with a name and networks", of(func(r clusterRule) bool {
			return some(r.protocols, isNamed) && some(r.peers, func(p clusterPeer) bool { return len(p.Networks) > 0 })
		}))
		has(string(action)+", without protocols", of(func(r clusterRule) bool { return len(r.protocols) == 0 }))
		has(string(action)+", with a peer that cannot be read", of(func(r clusterRule) bool { return some(r.peers, isUnreadable) }))
	}
	for name, of := range map[string]bool{"Accept": true, "Deny or Pass": false} {
		accepts := func(r clusterRule) bool {
			return of == (r.action == clusterv1beta1.ClusterNetworkPolicyRuleActionAccept)
		}
		has(name+", without peers", func(r clusterRule) bool { return accepts(r) && len(r.peers) == 0 })
		has(name+", with networks of which one cannot be read", func(r clusterRule) bool {
			return accepts(r) && some(r.peers, func(p clusterPeer) bool { return len(p.Networks) > 1 && some(p.Networks, isBad) })
		})
	}
	has("an unknown action", func(r clusterRule) bool { return !slices.Contains(actions, r.action) })
	has("a name", func(r clusterRule) bool { return r.name != "" })
	has("many peers", func(r clusterRule) bool { return len(r.peers) > 16 })
	clusterPeerFeatures(rules, f)
	clusterProtocolFeatures(rules, f)
}

func isNamed(p clusterProtocol) bool { return p.DestinationNamedPort != "" }

func isBad(network clusterv1beta1.CIDR) bool { return slices.Contains(badBlocks, string(network)) }

// isUnreadable reports whether a peer has not just one field.
func isUnreadable(p clusterPeer) bool {
	fields := 0
	for _, has := range []bool{p.Namespaces != nil, p.Pods != nil, p.Nodes != nil, len(p.Networks) > 0, len(p.DomainNames) > 0} {
		if has {
			fields++
		}
	}
	return fields != 1
}

// podSelectors are the selectors of a subject or a peer.
func podSelectors(namespaces *metav1.LabelSelector, pods *clusterv1beta1.NamespacedPod) (all []*metav1.LabelSelector) {
	if namespaces != nil {
		all = append(all, namespaces)
	}
	if pods != nil {
		all = append(all, &pods.NamespaceSelector, &pods.PodSelector)
	}
	return all
}

// isSpoiled reports whether a selector has a requirement that is not valid.
func isSpoiled(s *metav1.LabelSelector) bool {
	return some(s.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
		return some(badRequirements, func(bad metav1.LabelSelectorRequirement) bool { return reflect.DeepEqual(e, bad) })
	})
}

func clusterPeerFeatures(rules []clusterRule, f map[string]bool) {
	has := func(name string, is func(clusterPeer) bool) {
		f["cluster peer: "+name] = some(rules, func(r clusterRule) bool { return some(r.peers, is) })
	}
	has("namespaces", func(p clusterPeer) bool { return p.Namespaces != nil })
	has("pods of all namespaces", func(p clusterPeer) bool {
		return p.Pods != nil && len(p.Pods.NamespaceSelector.MatchLabels)+len(p.Pods.NamespaceSelector.MatchExpressions) == 0
	})
	has("pods of some namespaces", func(p clusterPeer) bool {
		return p.Pods != nil && len(p.Pods.NamespaceSelector.MatchLabels)+len(p.Pods.NamespaceSelector.MatchExpressions) > 0
	})
	has("all nodes", func(p clusterPeer) bool {
		return p.Nodes != nil && len(p.Nodes.MatchLabels)+len(p.Nodes.MatchExpressions) == 0
	})
	has("some nodes", func(p clusterPeer) bool {
		return p.Nodes != nil && len(p.Nodes.MatchLabels)+len(p.Nodes.MatchExpressions) > 0
	})
	has("networks", func(p clusterPeer) bool { return len(p.Networks) > 0 })
	has("networks of both families", func(p clusterPeer) bool {
		of := func(four bool) bool {
			return some(p.Networks, func(text clusterv1beta1.CIDR) bool {
				cidr, err := netip.ParsePrefix(string(text))
				return err == nil && cidr.Addr().Is4() == four
			})
		}
		return of(true) && of(false)
	})
	has("a network oddly spelled", func(p clusterPeer) bool {
		return some(p.Networks, func(text clusterv1beta1.CIDR) bool { return slices.Contains(spelledBlocks, string(text)) })
	})
	has("a network not valid", func(p clusterPeer) bool { return some(p.Networks, isBad) })
	has("domain names", func(p clusterPeer) bool { return len(p.DomainNames) > 0 })
	has("no field", func(p clusterPeer) bool { return reflect.DeepEqual(p, clusterPeer{}) })
	has("two fields", func(p clusterPeer) bool { return isUnreadable(p) && !reflect.DeepEqual(p, clusterPeer{}) })
	has("a selector not valid", func(p clusterPeer) bool { return some(podSelectors(p.Namespaces, p.Pods), isSpoiled) })
	has("a selector of nodes not valid", func(p clusterPeer) bool { return p.Nodes != nil && isSpoiled(p.Nodes) })
}

func clusterProtocolFeatures(rules []clusterRule, f map[string]bool) {
	has := func(name string, is func(protocol corev1.Protocol, port *clusterv1beta1.Port) bool) {
		f["cluster protocol: "+name] = some(rules, func(r clusterRule) bool {
			return some(r.protocols, func(p clusterProtocol) bool {
				return p.TCP != nil && is(corev1.ProtocolTCP, p.TCP.DestinationPort) || p.UDP != nil && is(corev1.ProtocolUDP, p.UDP.DestinationPort) ||
					p.SCTP != nil && is(corev1.ProtocolSCTP, p.SCTP.DestinationPort)
			})
		})
	}
	entry := func(name string, is func(clusterProtocol) bool) {
		f["cluster protocol: "+name] = some(rules, func(r clusterRule) bool { return some(r.protocols, is) })
	}
	for _, protocol := range protocols {
		has(string(protocol), func(of corev1.Protocol, _ *clusterv1beta1.Port) bool { return of == protocol })
	}
	has("all ports", func(_ corev1.Protocol, port *clusterv1beta1.Port) bool { return port == nil })
	has("a number", func(_ corev1.Protocol, port *clusterv1beta1.Port) bool {
		return port != nil && port.Number > 0 && port.Range == nil
	})
	has("a number that is no port's", func(_ corev1.Protocol, port *clusterv1beta1.Port) bool {
		return port != nil && port.Range == nil && (port.Number < 0 || port.Number > 65535)
	})
	has("no port", func(_ corev1.Protocol, port *clusterv1beta1.Port) bool {
		return port != nil && port.Number == 0 && port.Range == nil
	})
	has("a number and a range", func(_ corev1.Protocol, port *clusterv1beta1.Port) bool {
		return port != nil && port.Number != 0 && port.Range != nil
	})
	ranges := func(name string, is func(start, end int32) bool) {
		has(name, func(_ corev1.Protocol, port *clusterv1beta1.Port) bool {
			return port != nil && port.Range != nil && port.Number == 0 && is(port.Range.Start, port.Range.End)
		})
	}
	ranges("a range from 1", func(start, _ int32) bool { return start == 1 })
	ranges("a range to 65535", func(start, end int32) bool { return 0 < start && start < end && end == 65535 })
	ranges("a range of one port", func(start, end int32) bool { return start == end })
	ranges("a range that is none", func(start, end int32) bool { return start < 1 || end < start || end > 65535 })
	entry("a name", isNamed)
	entry("no field", func(p clusterProtocol) bool { return p == clusterProtocol{} })
	entry("two fields", func(p clusterProtocol) bool { return p.TCP != nil && (isNamed(p) || p.SCTP != nil) })
}
