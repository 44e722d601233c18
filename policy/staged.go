package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// A staged policy changes no verdict. The node works out beside all else what the verdicts would be
// with the staged policies in force, and tells where they would differ.
//
// So there are two models of one cluster. In the usual one, a staged policy selects no pod. In the
// other one (NewStaged) it is as all policies are; but pods that no staged policy is about have no
// policies there, as nothing would change for them.

// EnforcementAnnotation stages a NetworkPolicy or a ClusterNetworkPolicy if it has the value Staged. On
// a Namespace it stages all NetworkPolicies there.
const (
	EnforcementAnnotation = "podfence.io/enforcement"
	Staged                = "staged"
)

// StagedBy reports whether an object with these annotations is staged, or stages what is in it. A value
// that is not known stages nothing, and wrong says what is wrong with it.
func StagedBy(annotations map[string]string) (staged bool, wrong string) {
	switch value, has := annotations[EnforcementAnnotation]; {
	case !has:
		return false, ""
	case value == Staged:
		return true, ""
	default:
		return false, fmt.Sprintf("unknown value %q: it takes %q, and without that a policy is in force", value, Staged)
	}
}

// staged reads whether a policy is staged.
func (r *reader) staged(annotations map[string]string) bool {
	staged, wrong := StagedBy(annotations)
	if wrong != "" {
		r.problem(fmt.Sprintf("metadata.annotations[%s]", EnforcementAnnotation), "%s", wrong)
	}
	return staged
}

// stagedIn reports whether the policy is staged, in a namespace or, if it is a ClusterNetworkPolicy, in
// none; the namespace is nil if it is not known.
func (p *Policy) stagedIn(ns *Namespace) bool {
	return p.Staged || p.Tier == NetworkPolicyTier && ns != nil && ns.Staged
}

// NewStaged returns another model of the cluster as it is in m, with the staged policies in force for
// the pods that they are about. From then on both have to be fed the same changes.
func (m *Model) NewStaged() *Model {
	s := NewModel(m.node)
	s.inForce, s.ignored, s.budget = true, m.ignored, m.budget
	s.RememberPodCIDRs(m.podCIDRs)
	for name := range m.nodes {
		s.setNode(m.nodes[name])
	}
	for name, ns := range m.namespaces {
		if ns.object != nil {
			s.namespaceChanged(name, ns.object)
		}
		for _, policy := range ns.policies {
			s.setPolicy(*policy.given)
		}
	}
	for node, of := range m.announced {
		s.setAnnouncements(node, slices.Concat(slices.Collect(maps.Values(of))...))
	}
	for _, a := range m.made {
		s.setAttachment(a)
	}
	for _, ns := range m.namespaces {
		for _, pod := range ns.pods {
			if pod.located {
				shown := *pod
				shown.IPs, shown.located = m.shown(pod), false
				pod = &shown
			}
			s.setPod(pod)
		}
	}
	s.Apply(Resolved(m.Resolutions()))
	s.synced = m.synced
	return s
}

// StagedPolicies are the policies that are staged, in order.
func (m *Model) StagedPolicies() []Key { return sortedKeys(slices.Collect(maps.Keys(m.staged))) }

// IsStaged reports whether a policy is staged, by itself or by its namespace.
func (m *Model) IsStaged(key Key) bool { _, is := m.staged[key]; return is }

// HasStaged reports whether a policy is staged.
func (m *Model) HasStaged() bool { return len(m.staged) > 0 }

// Rehearsed is how many pods of the node a staged policy is about. Only a model of NewStaged knows.
func (m *Model) Rehearsed() int { return len(m.rehearsed) }

// noteStaged notes whether a policy is staged, and reports whether that has changed.
func (m *Model) noteStaged(ns *namespace, key Key) (changed bool) {
	_, was := m.staged[key]
	s := ns.policies[key]
	is := s != nil && s.stagedIn(ns.object)
	if delete(m.staged, key); is {
		m.staged[key] = struct{}{}
	}
	return was != is
}

// noteStagedBy notes whether the policies of a namespace are staged, and reports whether that has changed
// for one of them.
func (m *Model) noteStagedBy(ns *namespace) (changed bool) {
	for key := range ns.policies {
		changed = m.noteStaged(ns, key) || changed
	}
	return changed
}

// takesPart reports whether a policy that means a pod of this node is about it in this model.
func (m *Model) takesPart(s *selecting, pod Key) bool {
	if m.inForce {
		_, about := m.rehearsed[pod]
		return about
	}
	_, staged := m.staged[s.Key]
	return !staged
}

// noteRehearsed notes whether a staged policy is about a pod of this node.
func (m *Model) noteRehearsed(pod *Pod, ns *namespace) {
	delete(m.rehearsed, pod.Key)
	for _, of := range []*namespace{ns, m.namespaces[""]} {
		if of == nil {
			continue
		}
		for key, s := range of.policies {
			if _, staged := m.staged[key]; staged && s.matcher != nil && (s.matcher.matches(pod, ns.object) || s.Tier != NetworkPolicyTier && pod.undecided(ns.object) && s.matcher.mayMatch(pod, ns.object)) {
				m.rehearsed[pod.Key] = struct{}{}
				return
			}
		}
	}
}

// RehearsedAt reports whether a staged policy is about each pod that may have an address, so that the staged table
// says all that would become of its packets. Only a model of NewStaged knows.
func (m *Model) RehearsedAt(ip netip.Addr) bool {
	holders := m.holders(ip)
	return len(holders) > 0 && !slices.ContainsFunc(holders, func(pod *Pod) bool { _, is := m.rehearsed[pod.Key]; return !is })
}

// PendingAt reports whether something waits to be handed out that packets of a pod meet that may have an address.
func (m *Model) PendingAt(ip netip.Addr) bool {
	return slices.ContainsFunc(m.holders(ip), func(pod *Pod) bool { return m.PendingOf(pod.Namespace, []netip.Addr{ip}) })
}
