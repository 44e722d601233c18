package random

import (
	"net/netip"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podfence/podfence/policy"
)

// rule is a rule of either direction.
type rule struct {
	peers []networkingv1.NetworkPolicyPeer
	ports []networkingv1.NetworkPolicyPort
}

// rulesOf are a policy's.
func rulesOf(np *networkingv1.NetworkPolicy) (rules []rule) {
	for _, r := range np.Spec.Ingress {
		rules = append(rules, rule{r.From, r.Ports})
	}
	for _, r := range np.Spec.Egress {
		rules = append(rules, rule{r.To, r.Ports})
	}
	return rules
}

func policyFeatures(s policy.Snapshot, f map[string]bool) {
	var selectors, ofNamespaces []*metav1.LabelSelector
	var peers []networkingv1.NetworkPolicyPeer
	var blocks []*networkingv1.IPBlock
	var ports []networkingv1.NetworkPolicyPort
	for _, np := range s.Policies {
		selectors = append(selectors, &np.Spec.PodSelector)
		for _, r := range rulesOf(np) {
			peers, ports = append(peers, r.peers...), append(ports, r.ports...)
		}
	}
	for _, peer := range peers {
		if peer.PodSelector != nil {
			selectors = append(selectors, peer.PodSelector)
		}
		if peer.NamespaceSelector != nil {
			ofNamespaces = append(ofNamespaces, peer.NamespaceSelector)
		}
		if peer.IPBlock != nil {
			blocks = append(blocks, peer.IPBlock)
		}
	}
	ruleFeatures(s, f)
	selectorFeatures(selectors, ofNamespaces, f)
	f["policy: an empty peer"] = some(peers, func(p networkingv1.NetworkPolicyPeer) bool {
		return p.PodSelector == nil && p.NamespaceSelector == nil && p.IPBlock == nil
	})
	f["policy: a block with a selector"] = some(peers, func(p networkingv1.NetworkPolicyPeer) bool {
		return p.IPBlock != nil && (p.PodSelector != nil || p.NamespaceSelector != nil)
	})
	blockFeatures(blocks, f)
	portFeatures(ports, f)
}

func ruleFeatures(s policy.Snapshot, f map[string]bool) {
	rules := func(is func(rule) bool) bool {
		return some(s.Policies, func(np *networkingv1.NetworkPolicy) bool { return some(rulesOf(np), is) })
	}
	f["policy: has a subject on the node"] = some(s.Policies, func(np *networkingv1.NetworkPolicy) bool {
		return len(np.Spec.PodSelector.MatchExpressions) == 0 && some(s.Pods, func(p *corev1.Pod) bool {
			for key, value := range np.Spec.PodSelector.MatchLabels {
				if has, there := p.Labels[key]; !there || has != value {
					return false
				}
			}
			return runs(p) && p.Namespace == np.Namespace
		})
	})
	f["policy: an unknown type"] = some(s.Policies, func(np *networkingv1.NetworkPolicy) bool {
		return some(np.Spec.PolicyTypes, func(t networkingv1.PolicyType) bool { return t != "Ingress" && t != "Egress" })
	})
	f["policy: no peers, the list absent"] = rules(func(r rule) bool { return r.peers == nil })
	f["policy: no peers, the list empty"] = rules(func(r rule) bool { return r.peers != nil && len(r.peers) == 0 })
	f["policy: no ports, the list empty"] = rules(func(r rule) bool { return r.ports != nil && len(r.ports) == 0 })
}

func selectorFeatures(pods, ofNamespaces []*metav1.LabelSelector, f map[string]bool) {
	size := func(s *metav1.LabelSelector) int { return len(s.MatchLabels) + len(s.MatchExpressions) }
	f["selector: several requirements"] = some(pods, func(s *metav1.LabelSelector) bool { return size(s) > 1 })
	f["selector: labels and expressions"] = some(pods, func(s *metav1.LabelSelector) bool { return len(s.MatchLabels) > 0 && len(s.MatchExpressions) > 0 })
	f["selector: by the namespace's name"] = some(ofNamespaces, func(s *metav1.LabelSelector) bool { return s.MatchLabels[corev1.LabelMetadataName] != "" })
	f["selector: by several namespaces' names"] = some(ofNamespaces, func(s *metav1.LabelSelector) bool {
		return some(s.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
			return e.Key == corev1.LabelMetadataName && len(e.Values) > 1
		})
	})
	f["selector: not valid"] = some(pods, func(s *metav1.LabelSelector) bool {
		return some(s.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
			return some(badRequirements, func(bad metav1.LabelSelectorRequirement) bool { return reflect.DeepEqual(e, bad) })
		})
	})
}

func blockFeatures(blocks []*networkingv1.IPBlock, f map[string]bool) {
	excepts := func(is func(cidr, except netip.Prefix) bool) bool {
		return some(blocks, func(b *networkingv1.IPBlock) bool {
			cidr, err := netip.ParsePrefix(b.CIDR)
			return err == nil && some(b.Except, func(text string) bool {
				except, err := netip.ParsePrefix(text)
				return err == nil && is(cidr, except)
			})
		})
	}
	f["block: except is a part"] = excepts(func(cidr, except netip.Prefix) bool { return cidr.Overlaps(except) && except.Bits() > cidr.Bits() })
	f["block: except is the block"] = excepts(func(cidr, except netip.Prefix) bool { return except == cidr })
	f["block: except is wider"] = excepts(func(cidr, except netip.Prefix) bool { return cidr.Overlaps(except) && except.Bits() < cidr.Bits() })
	f["block: except of the other family"] = excepts(func(cidr, except netip.Prefix) bool { return cidr.Addr().Is4() != except.Addr().Is4() })
	f["block: except not valid"] = some(blocks, func(b *networkingv1.IPBlock) bool {
		return some(b.Except, func(text string) bool { return slices.Contains(badBlocks, text) })
	})
	f["block: not valid"] = some(blocks, func(b *networkingv1.IPBlock) bool { return slices.Contains(badBlocks, b.CIDR) })
	f["block: oddly spelled"] = some(blocks, func(b *networkingv1.IPBlock) bool { return slices.Contains(spelledBlocks, b.CIDR) })
}

func portFeatures(ports []networkingv1.NetworkPolicyPort, f map[string]bool) {
	has := func(name string, is func(networkingv1.NetworkPolicyPort) bool) { f["port: "+name] = some(ports, is) }
	numbered := func(p networkingv1.NetworkPolicyPort) bool { return p.Port != nil && p.Port.Type == intstr.Int }
	has("range to 65535", func(p networkingv1.NetworkPolicyPort) bool {
		return numbered(p) && p.EndPort != nil && *p.EndPort == 65535 && p.Port.IntVal < 65535
	})
	has("range from 1", func(p networkingv1.NetworkPolicyPort) bool {
		return numbered(p) && p.EndPort != nil && p.Port.IntVal == 1
	})
	has("range backwards", func(p networkingv1.NetworkPolicyPort) bool {
		return numbered(p) && p.EndPort != nil && *p.EndPort < p.Port.IntVal
	})
	has("end without a beginning", func(p networkingv1.NetworkPolicyPort) bool { return p.Port == nil && p.EndPort != nil })
	has("end of a name", func(p networkingv1.NetworkPolicyPort) bool {
		return p.Port != nil && p.Port.Type == intstr.String && p.EndPort != nil
	})
	has("no port's number", func(p networkingv1.NetworkPolicyPort) bool {
		return numbered(p) && (p.Port.IntVal < 1 || p.Port.IntVal > 65535)
	})
	has("unknown protocol", func(p networkingv1.NetworkPolicyPort) bool {
		return p.Protocol != nil && !slices.Contains(protocols, *p.Protocol)
	})
	has("no protocol", func(p networkingv1.NetworkPolicyPort) bool { return p.Protocol == nil })
	has("protocol alone", func(p networkingv1.NetworkPolicyPort) bool { return p.Port == nil && p.EndPort == nil })
}
