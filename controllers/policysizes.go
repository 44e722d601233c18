package controllers

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
)

// Each agent keeps all of the cluster's policies, whether they select a pod of its node or
// not, because it does not know which pods the node will get. So whoever may write policies in one
// namespace could make all agents run out of memory, and again at each start, before a single
// policy is in force. That is why what a namespace's policies may take has a limit.

const (
	// namespacePolicyBytes is how much memory the agent has for one namespace's policies.
	namespacePolicyBytes = 32 << 20
	// policyBytes is how much it has for all namespaces'.
	policyBytes = 128 << 20
	// clusterPolicyBytes is how much it has for ClusterNetworkPolicies. That is theirs alone: whoever
	// may write policies in namespaces cannot use it up.
	clusterPolicyBytes = 32 << 20
	// policyOverhead is what a policy takes besides what is in it.
	policyOverhead = 1 << 10
	// thingBytes is what a rule, a peer, a port, a requirement or a value takes besides its
	// text, as the API has it and as policy reads it. An empty one is sent in two bytes.
	thingBytes = 100
	// subjectBytes is how large the selector of a policy's pods may be that is not kept.
	subjectBytes = 4 << 10
)

// notKept is the annotation of a policy whose rules are not kept. Only policies in the cache have it,
// and the cache keeps few of the annotations that others have given.
const notKept = "podfence.io/not-kept"

// annotationsOf are those that are kept of a policy: that it asks for metrics, that it is staged, and whether its
// rules are not kept.
func annotationsOf(m metav1.ObjectMeta, emptied bool) map[string]string {
	kept := enforcementOf(m)
	keep := func(annotation string) {
		if kept == nil {
			kept = map[string]string{}
		}
		kept[annotation] = "true"
	}
	if m.Annotations[report.CountAnnotation] == "true" {
		keep(report.CountAnnotation)
	}
	if emptied {
		keep(notKept)
	}
	return kept
}

// enforcementOf is the annotation by which an object is staged, or what is in it. Of a value that is not known only the
// beginning is kept, as that says what is wrong. It is nil if there is none.
func enforcementOf(m metav1.ObjectMeta) map[string]string {
	value, has := m.Annotations[policy.EnforcementAnnotation]
	if !has {
		return nil
	}
	return map[string]string{policy.EnforcementAnnotation: strings.Clone(value[:min(len(value), len(policy.Staged)+16)])}
}

// policySizes are how large the policies are that the cache keeps. Its methods may be
// called concurrently.
type policySizes struct{ shares }

func newPolicySizes() *policySizes {
	return &policySizes{newShares(namespacePolicyBytes, policyBytes)}
}

// keep is the cache's transform of a policy: it is kept without its rules if its namespace
// has no room for them, or if all together have none and it has more than its share.
func (s *policySizes) keep(np *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	kept := stripPolicy(np)
	if _, been := np.Annotations[notKept]; been && len(np.Spec.Ingress)+len(np.Spec.Egress) == 0 {
		kept.Annotations = annotationsOf(np.ObjectMeta, true)
	}
	if s.count(keyOf(kept), memoryOf(kept)) {
		return kept
	}
	emptied := emptied(kept)
	s.set(keyOf(emptied), memoryOf(emptied))
	return emptied
}

// memoryOf is how many bytes of memory a policy takes, or somewhat more.
func memoryOf(np *networkingv1.NetworkPolicy) int {
	things := len(np.Labels) + len(np.Spec.PolicyTypes) + thingsOf(&np.Spec.PodSelector)
	for i := range np.Spec.Ingress {
		rule := &np.Spec.Ingress[i]
		things += 1 + len(rule.Ports) + peersOf(rule.From)
	}
	for i := range np.Spec.Egress {
		rule := &np.Spec.Egress[i]
		things += 1 + len(rule.Ports) + peersOf(rule.To)
	}
	return policyOverhead + np.Size() + thingBytes*things
}

// peersOf are the things that peers have.
func peersOf(peers []networkingv1.NetworkPolicyPeer) (things int) {
	for i := range peers {
		peer := &peers[i]
		things += 1 + thingsOf(peer.PodSelector) + thingsOf(peer.NamespaceSelector)
		if peer.IPBlock != nil {
			things += len(peer.IPBlock.Except)
		}
	}
	return things
}

// thingsOf are the things that a selector has; nil: none.
func thingsOf(selector *metav1.LabelSelector) (things int) {
	if selector == nil {
		return 0
	}
	things = len(selector.MatchLabels) + len(selector.MatchExpressions)
	for i := range selector.MatchExpressions {
		things += len(selector.MatchExpressions[i].Values)
	}
	return things
}

// emptied is a policy without its rules: it isolates the same pods, or all of the
// namespace's if what selects them is large too.
func emptied(np *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	// What is in the rules says nothing about the directions, only whether there are any.
	bare := &networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{
		PolicyTypes: np.Spec.PolicyTypes, Egress: make([]networkingv1.NetworkPolicyEgressRule, min(1, len(np.Spec.Egress))),
	}}
	parsed, _ := policy.Parse(bare)
	emptied := &networkingv1.NetworkPolicy{ObjectMeta: np.ObjectMeta, Spec: networkingv1.NetworkPolicySpec{PodSelector: np.Spec.PodSelector}}
	emptied.Labels, emptied.Annotations = nil, annotationsOf(np.ObjectMeta, true)
	if np.Spec.PodSelector.Size() > subjectBytes {
		emptied.Spec.PodSelector = metav1.LabelSelector{}
	}
	for d, kind := range []networkingv1.PolicyType{policy.Ingress: networkingv1.PolicyTypeIngress, policy.Egress: networkingv1.PolicyTypeEgress} {
		if parsed.Isolates[d] {
			emptied.Spec.PolicyTypes = append(emptied.Spec.PolicyTypes, kind)
		}
	}
	return emptied
}

// parsePolicy reads a policy as the cache keeps it.
func parsePolicy(np *networkingv1.NetworkPolicy) (policy.Policy, []policy.Problem) {
	parsed, problems := policy.Parse(np)
	if np.Annotations[notKept] != "" {
		problems = append(problems, policy.Problem{Policy: parsed.Key, Field: "spec", Reason: fmt.Sprintf(
			"the policies of a namespace may take %d MB of the agent's memory, and %d MB with those of all others, and with this one they would take more: "+
				"it isolates its pods and allows nothing until it is changed and there is room", namespacePolicyBytes>>20, policyBytes>>20)})
	}
	return parsed, problems
}

// clusterPolicySizes are how large the ClusterNetworkPolicies are that are kept. Their namespace is "",
// which has all the room there is.
type clusterPolicySizes struct{ shares }

func newClusterPolicySizes() *clusterPolicySizes {
	return &clusterPolicySizes{newShares(clusterPolicyBytes, clusterPolicyBytes)}
}

// keep is what is kept of a policy: what policy reads, without its rules if there is no room for them.
func (s *clusterPolicySizes) keep(cnp *clusterv1beta1.ClusterNetworkPolicy) *clusterv1beta1.ClusterNetworkPolicy {
	kept := stripClusterPolicy(cnp)
	if s.count(keyOf(kept), memoryOfCluster(kept)) {
		return kept
	}
	emptied := emptiedCluster(kept)
	s.set(keyOf(emptied), memoryOfCluster(emptied))
	return emptied
}

// memoryOfCluster is how many bytes of memory a ClusterNetworkPolicy takes, or somewhat more.
func memoryOfCluster(cnp *clusterv1beta1.ClusterNetworkPolicy) int {
	things := len(cnp.Labels) + clusterPeer{cnp.Spec.Subject.Namespaces, cnp.Spec.Subject.Pods, nil}.things()
	for i := range cnp.Spec.Ingress {
		rule := &cnp.Spec.Ingress[i]
		things += 1 + 2*len(rule.Protocols)
		for _, from := range rule.From {
			things += clusterPeer{from.Namespaces, from.Pods, nil}.things()
		}
	}
	for i := range cnp.Spec.Egress {
		rule := &cnp.Spec.Egress[i]
		things += 1 + 2*len(rule.Protocols)
		for _, to := range rule.To {
			things += clusterPeer{to.Namespaces, to.Pods, to.Nodes}.things() + len(to.Networks) + len(to.DomainNames)
		}
	}
	text, _ := json.Marshal(cnp.Spec) // what was read as JSON can be written as JSON
	return policyOverhead + len(text) + thingBytes*things
}

// clusterPeer are the selectors of a peer or a subject; nil: it has none of the kind.
type clusterPeer struct {
	namespaces *metav1.LabelSelector
	pods       *clusterv1beta1.NamespacedPod
	nodes      *metav1.LabelSelector
}

// things are what the selectors have.
func (p clusterPeer) things() int {
	things := 1 + thingsOf(p.namespaces) + thingsOf(p.nodes)
	if p.pods != nil {
		things += 1 + thingsOf(&p.pods.NamespaceSelector) + thingsOf(&p.pods.PodSelector)
	}
	return things
}

// emptiedCluster is a ClusterNetworkPolicy without its rules. It accepts nothing, and denies all in a
// direction in which it has a rule that does not accept: what such a rule would deny, or leave to other
// policies, is not known any more. It is about the same pods, or about all if what selects them is
// large too.
func emptiedCluster(cnp *clusterv1beta1.ClusterNetworkPolicy) *clusterv1beta1.ClusterNetworkPolicy {
	emptied := &clusterv1beta1.ClusterNetworkPolicy{ObjectMeta: cnp.ObjectMeta, Spec: clusterv1beta1.ClusterNetworkPolicySpec{
		Tier: cnp.Spec.Tier, Priority: cnp.Spec.Priority, Subject: cnp.Spec.Subject,
	}}
	emptied.Labels, emptied.Annotations = nil, annotationsOf(cnp.ObjectMeta, true)
	if text, _ := json.Marshal(cnp.Spec.Subject); len(text) > subjectBytes {
		emptied.Spec.Subject = clusterv1beta1.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}}
	}
	// A rule that denies, and has no peers, denies everything in its direction (policy.ParseCluster).
	if slices.ContainsFunc(cnp.Spec.Ingress, func(r clusterv1beta1.ClusterNetworkPolicyIngressRule) bool {
		return r.Action != clusterv1beta1.ClusterNetworkPolicyRuleActionAccept
	}) {
		emptied.Spec.Ingress = []clusterv1beta1.ClusterNetworkPolicyIngressRule{{Action: clusterv1beta1.ClusterNetworkPolicyRuleActionDeny}}
	}
	if slices.ContainsFunc(cnp.Spec.Egress, func(r clusterv1beta1.ClusterNetworkPolicyEgressRule) bool {
		return r.Action != clusterv1beta1.ClusterNetworkPolicyRuleActionAccept
	}) {
		emptied.Spec.Egress = []clusterv1beta1.ClusterNetworkPolicyEgressRule{{Action: clusterv1beta1.ClusterNetworkPolicyRuleActionDeny}}
	}
	return emptied
}

// parseClusterPolicy reads a ClusterNetworkPolicy as it is kept.
func parseClusterPolicy(cnp *clusterv1beta1.ClusterNetworkPolicy) (policy.Policy, []policy.Problem) {
	parsed, problems := policy.ParseCluster(cnp)
	if cnp.Annotations[notKept] != "" {
		problems = []policy.Problem{{Policy: parsed.Key, Field: "spec", Reason: fmt.Sprintf(
			"ClusterNetworkPolicies may take %d MB of the agent's memory, and with this one they would take more: "+
				"it accepts nothing, and denies all in a direction in which it denies or passes, until it is changed and there is room", clusterPolicyBytes>>20)}}
	}
	return parsed, problems
}
