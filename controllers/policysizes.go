package controllers

import (
	"fmt"
	"sync"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
)

// Each agent keeps all of the cluster's policies, whether they select a pod of its node or
// not: it does not know which pods it will get. Whoever may write policies in one namespace
// could have all agents run out of memory by that, and again at each start, before a single
// policy is in force. So what a namespace's policies may take has a limit.

const (
	// namespacePolicyBytes is what the agent keeps of one namespace's policies, as the API
	// server sends them; it takes some five times as much memory.
	namespacePolicyBytes = 16 << 20
	// policyBytes is what it keeps of all namespaces'.
	policyBytes = 64 << 20
	// policyOverhead is what a policy takes besides.
	policyOverhead = 1 << 10
	// subjectBytes is how large the selector of a policy's pods may be that is not kept.
	subjectBytes = 4 << 10
)

// notKept is the annotation of a policy of which the rules are not kept, in the cache
// alone: that keeps no annotations that others have given.
const notKept = "podfence.io/not-kept"

// policySizes are how large the policies are that the cache keeps. Its methods may be
// called concurrently.
type policySizes struct {
	// namespace is what one namespace's may take, all what all may.
	namespace, all int

	mu    sync.Mutex
	sizes map[string]map[string]int // by namespace and name
	of    map[string]int            // by namespace
	total int
}

func newPolicySizes() *policySizes {
	return &policySizes{namespace: namespacePolicyBytes, all: policyBytes, sizes: map[string]map[string]int{}, of: map[string]int{}}
}

// keep is the cache's transform of a policy: it is kept without its rules if its namespace
// has no room for them, or if all together have none and it has more than its share.
func (s *policySizes) keep(np *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	kept := stripPolicy(np)
	if _, been := np.Annotations[notKept]; been && len(np.Spec.Ingress)+len(np.Spec.Egress) == 0 {
		kept.Annotations = map[string]string{notKept: "true"}
	}
	if s.count(kept, kept.Size()+policyOverhead) {
		return kept
	}
	emptied := emptied(kept)
	s.set(emptied, emptied.Size()+policyOverhead)
	return emptied
}

// emptied is a policy without its rules: it isolates the same pods, or all of the
// namespace's if what selects them is large too.
func emptied(np *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	parsed, _ := policy.Parse(np)
	emptied := &networkingv1.NetworkPolicy{ObjectMeta: np.ObjectMeta, Spec: networkingv1.NetworkPolicySpec{PodSelector: np.Spec.PodSelector}}
	emptied.Labels, emptied.Annotations = nil, map[string]string{notKept: "true"}
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

// count takes a policy in if there is room for it.
func (s *policySizes) count(np *networkingv1.NetworkPolicy, size int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	more := size - s.sizes[np.Namespace][np.Name]
	of, total := s.of[np.Namespace]+more, s.total+more
	if of > s.namespace || total > s.all && of > s.all/max(len(s.sizes), 1) {
		return false
	}
	s.put(np.Namespace, np.Name, size)
	return true
}

// set takes a policy in, whether there is room or not.
func (s *policySizes) set(np *networkingv1.NetworkPolicy, size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(np.Namespace, np.Name, size)
}

// put notes a policy's size; 0: it is gone.
func (s *policySizes) put(namespace, name string, size int) {
	more := size - s.sizes[namespace][name]
	s.of[namespace] += more
	s.total += more
	if size > 0 {
		if s.sizes[namespace] == nil {
			s.sizes[namespace] = map[string]int{}
		}
		s.sizes[namespace][name] = size
		return
	}
	delete(s.sizes[namespace], name)
	if len(s.sizes[namespace]) == 0 {
		delete(s.sizes, namespace)
		delete(s.of, namespace)
	}
}

// forget notes that a policy is gone.
func (s *policySizes) forget(key policy.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(key.Namespace, key.Name, 0)
}

// parsePolicy reads a policy as the cache keeps it.
func parsePolicy(np *networkingv1.NetworkPolicy) (policy.Policy, []policy.Problem) {
	parsed, problems := policy.Parse(np)
	if np.Annotations[notKept] != "" {
		problems = append(problems, policy.Problem{Policy: parsed.Key, Field: "spec", Reason: fmt.Sprintf(
			"the policies of a namespace may have %d MB, and %d MB with those of all others, and with this one they would have more: "+
				"it isolates its pods and allows nothing until it is changed and there is room", namespacePolicyBytes>>20, policyBytes>>20)})
	}
	return parsed, problems
}
