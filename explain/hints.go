package explain

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/policy"
)

// mistakes are the reasons of notes that name what its author probably did not mean. They are shown
// before everything else.
var mistakes = []string{"PlaceholderAddress", "PolicyTypes", "WrongNamespace", "SelectsNoPod", "NotSelected", "TwoPeers", "EgressWithoutDNS", "HostNetwork", "ServiceAddress", "ExternalTrafficPolicy", "AgentMissing", "AgentNotReady"}

// hints are notes about what policies say, but probably do not mean, of the two ends of an answer.
func (x *Explainer) hints(a Answer, egress, ingress packet) (notes []Note) {
	for _, at := range []struct {
		side Side
		p    packet
	}{{a.Egress, egress}, {a.Ingress, ingress}} {
		for _, pod := range at.p.subject.Pods[:min(1, len(at.p.subject.Pods))] {
			notes = append(notes, x.withoutPolicyType(pod, at.p.d)...)
			if len(at.side.Rules) == 0 {
				notes = append(notes, x.misplaced(pod, at.p.d)...)
			}
			if at.side.Verdict == Denied && len(at.side.Rules) == 0 {
				notes = append(notes, x.notSelected(pod, at.p)...)
			}
		}
		if at.side.Verdict == Allowed {
			notes = append(notes, x.twoPeers(at.side)...)
		}
	}
	return append(notes, x.withoutDNS(a, egress)...)
}

// withoutPolicyType names policies of a pod whose rules of a direction have no effect.
func (x *Explainer) withoutPolicyType(pod *corev1.Pod, d policy.Direction) (notes []Note) {
	for _, np := range x.policies[pod.Namespace] {
		if isolatesFor(np, d) || len(networkRules(np, d)) == 0 || !matches(&np.Spec.PodSelector, pod.Labels) {
			continue
		}
		notes = append(notes, Note{"PolicyTypes", fmt.Sprintf(
			"%s selects pod %s and has %s rules, but its policyTypes does not list %s: they have no effect.", x.networkRef(np), pod.Name, d, titles[d])})
	}
	return notes
}

// titles are the directions as policyTypes has them.
var titles = map[policy.Direction]networkingv1.PolicyType{policy.Ingress: networkingv1.PolicyTypeIngress, policy.Egress: networkingv1.PolicyTypeEgress}

// isolatesFor reports whether a policy isolates what it selects for a direction.
func isolatesFor(np *networkingv1.NetworkPolicy, d policy.Direction) bool {
	if len(np.Spec.PolicyTypes) == 0 {
		return d == policy.Ingress || len(np.Spec.Egress) > 0
	}
	return slices.Contains(np.Spec.PolicyTypes, titles[d])
}

// misplaced names policies that select no pod at all, and would select this one if they were in its
// namespace or had one label right.
func (x *Explainer) misplaced(pod *corev1.Pod, d policy.Direction) (notes []Note) {
	for _, np := range x.cluster.Policies {
		selector := &np.Spec.PodSelector
		if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 || !isolatesFor(np, d) {
			continue
		}
		name := x.networkRef(np).String()
		if np.Namespace != pod.Namespace {
			if matches(selector, pod.Labels) && !x.selectsSome(np) {
				notes = append(notes, Note{"WrongNamespace", fmt.Sprintf(
					"%s selects no pod of its own namespace %s. It would select pod %s if it were in namespace %s.", name, np.Namespace, pod.Name, pod.Namespace)})
			}
			continue
		}
		failed := missedLabels(selector, "spec.podSelector", pod.Labels, "pod "+pod.Name)
		if len(failed) == 1 && failed[0].distance <= nearLabel && !x.selectsSome(np) {
			notes = append(notes, Note{"SelectsNoPod", fmt.Sprintf("%s selects no pod: %s, %s.", name, failed[0].Path, failed[0].Reason)})
		}
	}
	return notes
}

// notSelected names policies with a rule that allows the packet of a pod, and that select others than this one,
// which has one label wrong.
func (x *Explainer) notSelected(pod *corev1.Pod, p packet) (notes []Note) {
	for _, np := range x.policies[pod.Namespace] {
		failed := missedLabels(&np.Spec.PodSelector, "spec.podSelector", pod.Labels, "pod "+pod.Name)
		if !x.inForce(np) || len(failed) != 1 || failed[0].distance > nearLabel || !isolatesFor(np, p.d) || !x.selectsSome(np) {
			continue
		}
		if allows := slices.IndexFunc(networkRules(np, p.d), func(r rule) bool { return len(x.miss(r, p)) == 0 }); allows >= 0 {
			notes = append(notes, Note{"NotSelected", fmt.Sprintf("%s allows this to the pods that it selects (spec.%s[%d]), and does not select this one: %s, %s.",
				x.networkRef(np), p.d, allows, failed[0].Path, failed[0].Reason)})
		}
	}
	return notes
}

// selectsSome reports whether a policy selects any pod.
func (x *Explainer) selectsSome(np *networkingv1.NetworkPolicy) bool {
	return slices.ContainsFunc(x.cluster.Pods, func(pod *corev1.Pod) bool {
		return pod.Namespace == np.Namespace && !pod.Spec.HostNetwork && matches(&np.Spec.PodSelector, pod.Labels)
	})
}

// twoPeers names rules that let in a whole namespace by one peer, while another peer beside it selects
// pods: whoever meant pods that both select has written one item too many.
func (x *Explainer) twoPeers(s Side) (notes []Note) {
	for _, by := range s.Rules {
		if by.Policy.Namespace == "" {
			continue
		}
		for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
			for _, r := range x.rulesOf(policy.Key{Namespace: by.Policy.Namespace, Name: by.Policy.Name}, d) {
				namespaces := slices.IndexFunc(r.peers, func(p peer) bool { return p.path == by.Path && p.pods == nil && p.namespaces != nil })
				pods := slices.IndexFunc(r.peers, func(p peer) bool {
					return p.namespaces == nil && p.pods != nil && len(p.pods.MatchLabels)+len(p.pods.MatchExpressions) > 0
				})
				if namespaces >= 0 && pods >= 0 {
					notes = append(notes, Note{"TwoPeers", fmt.Sprintf(
						"%s: %s (a podSelector) and %s (a namespaceSelector) are two peers, and either is enough. To mean only pods that both select, write them as one item.",
						by.Policy, r.peers[pods].path, r.peers[namespaces].path)})
				}
			}
		}
	}
	return notes
}

// translations notes what happens to a packet to a Service before policies see it.
func (x *Explainer) translations(q Question) []Note {
	if q.To.Kind != KindService || q.From.Kind != KindAddress || len(x.Holder(q.From.Address).Pods) > 0 {
		return nil
	}
	service := x.services[policy.Key{Namespace: q.To.Namespace, Name: q.To.Name}]
	outside := service.Spec.Type == corev1.ServiceTypeNodePort || service.Spec.Type == corev1.ServiceTypeLoadBalancer
	if !outside || service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		return nil
	}
	return []Note{{"ExternalTrafficPolicy", fmt.Sprintf(
		"Service %s/%s has externalTrafficPolicy Cluster: what comes to it from outside of the cluster may arrive with a node's address in place of %s, so that an ipBlock does not see the client. With Local it keeps its address.",
		service.Namespace, service.Name, q.From.Address)}}
}

// agents notes where nobody enforces what policies say, because podfence's agent is not there or not ready.
func (x *Explainer) agents(a Answer) (notes []Note) {
	if !x.cluster.Running {
		return nil
	}
	for _, node := range slices.Compact([]string{a.Egress.EnforcedAt, a.Ingress.EnforcedAt}) {
		if node == "" {
			continue
		}
		agent := x.agentAt(node)
		switch {
		case agent == nil:
			notes = append(notes, Note{"AgentMissing", fmt.Sprintf("No agent of podfence runs on node %s: nothing of this is enforced there, unless an earlier one has left its rules.", node)})
		case !ready(agent):
			notes = append(notes, Note{"AgentNotReady", fmt.Sprintf("The agent of podfence on node %s (pod %s/%s) is not ready: what is enforced there may be older.", node, agent.Namespace, agent.Name)})
		}
	}
	return notes
}

// agentAt is the pod of podfence's agent on a node, one that is ready if there is such; nil: there is none.
func (x *Explainer) agentAt(node string) (agent *corev1.Pod) {
	for _, pod := range x.cluster.Pods {
		if pod.Spec.NodeName == node && isAgent(pod) && (agent == nil || ready(pod)) {
			agent = pod
		}
	}
	return agent
}

// isAgent reports whether a pod is an agent of podfence.
func isAgent(pod *corev1.Pod) bool {
	return pod.Spec.HostNetwork && v1alpha1.HasAgentLabels(pod.Labels)
}

// isBehind reports whether a pod is one of those that a Service sends to.
func (x *Explainer) isBehind(service *corev1.Service, pod *corev1.Pod) bool {
	return service.Namespace == pod.Namespace && len(service.Spec.Selector) > 0 &&
		labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(pod.Labels))
}

// matches reports whether a selector selects labels; one that cannot be read selects none.
func matches(s *metav1.LabelSelector, has map[string]string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(has))
}

// mistakesFirst puts notes that name mistakes before the others.
func mistakesFirst(notes []Note) []Note {
	rank := func(n Note) int {
		if slices.Contains(mistakes, n.Reason) {
			return 0
		}
		return 1
	}
	sorted := slices.Clone(notes)
	slices.SortStableFunc(sorted, func(a, b Note) int { return cmp.Compare(rank(a), rank(b)) })
	return sorted
}
