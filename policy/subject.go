package policy

import (
	"net/netip"
	"slices"
)

// Subject is a pod of this node with the policies that isolate it.
type Subject struct {
	Key
	// IPs are the addresses that are this pod's, in order; there is at least one.
	// An address that several subjects have is fenced by all of them: nobody can
	// tell which one has it (see owners.go).
	IPs []netip.Addr
	// Isolated says, per Direction, whether a policy isolates the pod. If none does,
	// the direction is open.
	Isolated [len(Directions)]bool
	// Isolating are the policies that do, per Direction, in order. If there are more than
	// maxIsolating they are those that have a rule: a packet need not be shown to others.
	Isolating [len(Directions)][]Key
}

// equal reports whether two say the same of one pod.
func (s *Subject) equal(other *Subject) bool {
	return slices.Equal(s.IPs, other.IPs) && s.Isolated == other.Isolated &&
		slices.Equal(s.Isolating[Ingress], other.Isolating[Ingress]) && slices.Equal(s.Isolating[Egress], other.Isolating[Egress])
}

// closeUnread isolates a pod whose labels are not known: a policy that nobody can tell may
// select it. What those allow that select all pods, it is allowed.
func (s *Subject) closeUnread(pod *Pod) {
	for _, d := range Directions {
		s.Isolated[d] = s.Isolated[d] || pod.Unread
	}
}

// isolator is a policy that isolates a pod.
type isolator struct {
	*Policy
	walks [len(Directions)]int
}

// maxIsolating is how many policies a packet is shown to though they allow nothing: for
// who looks at the pod's chain, and for the log, which says by what a flow was cut.
const maxIsolating = 32

// isolate notes the policies that isolate the pod.
func (s *Subject) isolate(policies []isolator) {
	for _, d := range Directions {
		var all, allowing []Key
		for _, p := range policies {
			if p.Isolates[d] {
				all = append(all, p.Key)
				if p.walks[d] > 0 {
					allowing = append(allowing, p.Key)
				}
			}
		}
		s.Isolated[d] = len(all) > 0
		if len(all) > maxIsolating {
			all = allowing
		}
		s.Isolating[d] = sortedKeys(all)
	}
}

// subject returns a pod of this node with what isolates it; nil if it is none.
func (m *Model) subject(key Key) *Subject {
	ns := m.namespaces[key.Namespace]
	if ns == nil {
		return nil
	}
	selecting, is := ns.subjects[key]
	if !is {
		return nil
	}
	s := &Subject{Key: key, IPs: m.here(m.pod(key))}
	isolators := make([]isolator, len(selecting))
	for i, policy := range selecting {
		isolators[i] = isolator{&policy.Policy, policy.walks}
	}
	s.isolate(isolators)
	s.closeUnread(m.pod(key))
	return s
}

// takeSubject takes a pod of this node, if it is not as it was handed out.
func (m *Model) takeSubject(key Key, d *Delta) {
	now := m.subject(key)
	if now == nil {
		delete(m.handedSubjects, key)
		d.Subjects[key] = nil
		return
	}
	if had, there := m.handedSubjects[key]; there && had.equal(now) {
		return
	}
	m.handedSubjects[key] = now
	d.Subjects[key] = now
}
