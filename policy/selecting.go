package policy

import "slices"

// selecting is a policy with the number of this node's pods that it selects. While that number
// is not zero the policy is active: the members of its peers and named ports are followed.
type selecting struct {
	Policy
	// given is the policy as SetPolicy got it. It differs from Policy while that is quarantined.
	given    *Policy
	matcher  *matcher // nil: selects nothing
	subjects int
	// objects is how many sets and rules it takes, ranges how many ranges of addresses and ports
	// it has, and walks how many rules a packet meets.
	objects, ranges int
	walks           [len(Directions)]int
}

// selects reports whether a policy of a pod's namespace selects the pod, on a node.
func (s *selecting) selects(pod *Pod, node string) bool {
	return pod.Node == node && s.matcher != nil && s.matcher.matches(pod, nil)
}

// setPolicy takes a policy in as it is now. One that is quarantined stays so
// if it is still the same.
func (m *Model) setPolicy(p Policy) {
	if old := m.selecting(p.Key); old != nil && old.given.equal(&p) {
		return
	}
	m.endQuarantine(p.Key)
	m.putPolicy(p, nil)
}

// endQuarantine notes that a policy has changed or gone, which ends its quarantine.
func (m *Model) endQuarantine(key Key) {
	delete(m.quarantined, key)
	delete(m.over, key)
}

// putPolicy takes a policy in. If it is quarantined, given is the policy as SetPolicy got it;
// else given is nil.
func (m *Model) putPolicy(p Policy, given *Policy) {
	ns := m.in(p.Namespace)
	old := ns.policies[p.Key]
	s := &selecting{Policy: p, given: given, objects: sizeOf(&p), ranges: p.ranges(), walks: p.walks()}
	if given == nil {
		s.given = &s.Policy
	}
	if p.Subject != nil {
		s.matcher = matcherOf(*p.Subject)
	}
	ns.policies[p.Key] = s
	m.policyChanged(ns, p.Key, old)
}

// selecting returns what is known of a policy; nil if there is none of that name.
func (m *Model) selecting(key Key) *selecting {
	if ns := m.namespaces[key.Namespace]; ns != nil {
		return ns.policies[key]
	}
	return nil
}

// deletePolicy forgets a policy.
func (m *Model) deletePolicy(key Key) {
	ns := m.in(key.Namespace)
	m.endQuarantine(key)
	if old := ns.policies[key]; old != nil {
		delete(ns.policies, key)
		m.policyChanged(ns, key, old)
	}
	m.dropIfEmpty(key.Namespace)
}

// policyChanged replaces a policy in all subjects of its namespace. old is the policy as it was;
// nil if it is new. It looks at no other policy, as there may be thousands.
func (m *Model) policyChanged(ns *namespace, key Key, old *selecting) {
	m.dirtyPolicies[key] = struct{}{}
	now := ns.policies[key] // nil: deleted
	for subject, by := range ns.subjects {
		at := -1
		if old != nil && old.subjects > 0 {
			at = slices.Index(by, old)
		}
		selects := now != nil && now.selects(m.pod(subject), m.node)
		if at < 0 && !selects {
			continue
		}
		m.dirtySubjects[subject] = struct{}{}
		if at >= 0 {
			by = slices.Delete(by, at, at+1)
			m.deselect(old)
		}
		if selects {
			by = append(by, now)
			m.selected(now)
		}
		ns.subjects[subject] = by
	}
}

// selected counts that a policy selects one subject more, and deselect that it selects one less.
func (m *Model) selected(s *selecting) {
	m.chargeObjects(m.in(s.Namespace), s.jumpsOf(1))
	if s.subjects++; s.subjects == 1 {
		m.dirtyPolicies[s.Key] = struct{}{}
		m.use(m.in(s.Namespace), &s.Policy, 1)
		m.charge(s, 1)
	}
}

func (m *Model) deselect(s *selecting) {
	m.chargeObjects(m.in(s.Namespace), -s.jumpsOf(1))
	if s.subjects--; s.subjects == 0 {
		m.dirtyPolicies[s.Key] = struct{}{}
		m.use(m.in(s.Namespace), &s.Policy, -1)
		m.charge(s, -1)
	}
}

// chargeObjects adds n to the counted sets and rules of a namespace's policies.
func (m *Model) chargeObjects(ns *namespace, n int) {
	ns.objects += n
	m.objects += n
}

// charge counts the sets, rules and ranges of a policy in (by is 1), or out (by is -1).
func (m *Model) charge(s *selecting, by int) {
	ns := m.in(s.Namespace)
	m.chargeObjects(ns, by*s.objects)
	ns.elements += by * rangeCost * s.ranges
	m.total += by * rangeCost * s.ranges
}

// refreshSubject works out anew which policies select a pod of this node.
func (m *Model) refreshSubject(key Key) {
	ns := m.in(key.Namespace)
	before, was := ns.subjects[key]
	pod := m.pod(key)
	is := pod != nil && len(m.here(pod)) > 0
	if !was && !is {
		return
	}
	m.dirtySubjects[key] = struct{}{}
	var now []*selecting
	if is {
		for _, s := range ns.policies {
			if s.selects(pod, m.node) {
				now = append(now, s)
			}
		}
		ns.subjects[key] = now
	} else {
		delete(ns.subjects, key)
	}
	for _, s := range now {
		m.selected(s)
	}
	for _, s := range before {
		m.deselect(s)
	}
}
