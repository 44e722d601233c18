package policy

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/labels"
)

// The ClusterNetworkPolicies of a tier that are about a pod, in the order in which a packet meets
// them, are a stack. All pods of a workload have the same.

// stackOf are those of the policies that are in a tier and have a rule for a direction, in the order
// in which a packet meets them.
func stackOf(policies []*Policy, tier Tier, d Direction) (stack []Key) {
	var in []*Policy
	for _, p := range policies {
		if p.Tier == tier && len(p.Rules[d]) > 0 {
			in = append(in, p)
		}
	}
	slices.SortFunc(in, InOrder)
	stack = slices.Grow(stack, len(in)) // each pod of the node has one, so none has more room than it needs
	for _, p := range in {
		stack = append(stack, p.Key)
	}
	return stack
}

// InOrder is the order in which a packet meets the ClusterNetworkPolicies of a tier.
func InOrder(a, b *Policy) int {
	return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Name, b.Name))
}

// stack notes the ClusterNetworkPolicies that are about the pod.
func (s *Subject) stack(policies []*Policy) {
	for _, d := range Directions {
		s.Admin[d], s.Baseline[d] = stackOf(policies, AdminTier, d), stackOf(policies, BaselineTier, d)
	}
}

// Stack are the policies of a tier that are about the pod in a direction, in the order in which a packet
// meets them.
func (s *Subject) Stack(tier Tier, d Direction) []Key {
	switch tier {
	case AdminTier:
		return s.Admin[d]
	case BaselineTier:
		return s.Baseline[d]
	}
	return s.Isolating[d]
}

// Fenced reports whether any policy is about the pod's packets in a direction.
func (s *Subject) Fenced(d Direction) bool {
	return s.Isolated[d] || len(s.Admin[d])+len(s.Baseline[d]) > 0
}

// sameStacks reports whether two subjects have the same stacks.
func (s *Subject) sameStacks(other *Subject) bool {
	return !slices.ContainsFunc(Directions[:], func(d Direction) bool {
		return !slices.Equal(s.Admin[d], other.Admin[d]) || !slices.Equal(s.Baseline[d], other.Baseline[d])
	})
}

// inStack reports whether one of the subject's stacks has a policy. A subject that is nil has none.
func (s *Subject) inStack(key Key) bool {
	return s != nil && slices.ContainsFunc(Directions[:], func(d Direction) bool {
		return slices.Contains(s.Admin[d], key) || slices.Contains(s.Baseline[d], key)
	})
}

// close closes a pod for a direction: it is isolated, and nothing is allowed, by no policy.
func (s *Subject) close(d Direction) {
	s.Isolated[d], s.Isolating[d], s.Admin[d], s.Baseline[d] = true, nil, nil, nil
}

// closed reports whether the pod is isolated for a direction, and no policy allows it anything.
func (s *Subject) closed(d Direction) bool {
	return s.Isolated[d] && len(s.Isolating[d])+len(s.Admin[d])+len(s.Baseline[d]) == 0
}

// undecided reports whether nobody can tell which ClusterNetworkPolicies are about a pod, because its
// namespace is not known, or its labels were not kept.
func (p *Pod) undecided(ns *Namespace) bool { return p.Unread || ns == nil }

// mayMatch reports whether the selector may mean a pod that is undecided.
func (m *matcher) mayMatch(pod *Pod, ns *Namespace) bool {
	return (ns == nil || m.namespaces.Matches(labels.Set(ns.Labels))) && (m.Pods == "" || pod.Unread || m.pods.Matches(pod.Labels))
}

// closeUndecided closes a pod that is undecided, for each direction in which one of the policies that
// may be about it denies or passes something.
func (s *Subject) closeUndecided(policies []*Policy) {
	for _, d := range Directions {
		s.Admin[d], s.Baseline[d] = nil, nil
		if slices.ContainsFunc(policies, func(p *Policy) bool { return closes(p.Rules[d]) }) {
			s.close(d)
		}
	}
}

// A ClusterNetworkPolicy that has changed comes into force as a whole, in one transaction: for all of
// this node's pods at once, as soon as all that it names has been handed out. Until then what was
// handed out of it holds, for the same pods; nothing of it, if it is new. Pods that are new
// themselves, and that it is about, are closed meanwhile as if it denied everything.

// takeClusterPolicies takes the ClusterNetworkPolicies of which all that they name is handed out, and
// those that are gone. It reports whether there were any, and returns the others that have changed.
func (m *Model) takeClusterPolicies(d *Delta) (taken bool, waiting map[Key]struct{}) {
	waiting = map[Key]struct{}{}
	for key := range m.dirtyPolicies {
		if key.Namespace != "" {
			continue
		}
		now, had := m.policy(key), m.handed[key]
		if now != nil && !m.ready(now) {
			waiting[key] = struct{}{}
			continue
		}
		delete(m.dirtyPolicies, key)
		if now != nil || had != nil {
			m.hand(key, now, had, d)
			taken = true
		}
	}
	return taken, waiting
}

// interim is a subject as it is to be handed out, in place of had, while some ClusterNetworkPolicies
// wait. s is what it will be then.
func (m *Model) interim(key Key, s, had *Subject, waiting map[Key]struct{}) *Subject {
	_, closed := m.closedMeanwhile[key]
	delete(m.closedMeanwhile, key)
	if s == nil || len(waiting) == 0 || m.pod(key).undecided(m.in(key.Namespace).object) {
		return s
	}
	var later, inForce []*Policy
	for _, by := range m.in(key.Namespace).subjects[key] {
		if by.Tier == NetworkPolicyTier {
			continue
		}
		if _, waits := waiting[by.Key]; waits {
			later = append(later, &by.Policy)
		} else {
			inForce = append(inForce, &by.Policy)
		}
	}
	for policy := range waiting {
		if had.inStack(policy) {
			inForce = append(inForce, m.handed[policy])
		}
	}
	form := *s
	form.stack(inForce)
	if had != nil && !closed || len(later) == 0 {
		return &form
	}
	m.closedMeanwhile[key] = struct{}{}
	for _, d := range Directions {
		if slices.ContainsFunc(later, func(p *Policy) bool { return closes(p.Rules[d]) }) {
			form.close(d)
		}
	}
	return &form
}
