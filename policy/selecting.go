package policy

import (
	"maps"
	"slices"
)

// selecting is a policy with the number of this node's pods that it selects. While that number
// is not zero the policy is active: the members of its peers and named ports are followed.
type selecting struct {
	Policy
	// given is the policy as SetPolicy got it. It differs from Policy while that is quarantined.
	given    *Policy
	matcher  *matcher // nil: selects nothing
	subjects int
	// objects is how many sets and rules it takes, ranges how many ranges of addresses and ports
	// it has, and walks how many rules a packet meets. The latter is not counted for a
	// ClusterNetworkPolicy, which is not bounded by it.
	objects, ranges int
	walks           [len(Directions)]int
}

// selects reports whether a policy selects a pod, which must be of this node, and takes part in this model.
func (m *Model) selects(s *selecting, pod *Pod) bool {
	return pod.Node == m.node && s.matcher != nil && m.takesPart(s, pod.Key) && s.matcher.matches(pod, m.in(pod.Namespace).object)
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
	s := &selecting{Policy: p, given: given, objects: sizeOf(&p), ranges: p.ranges()}
	if p.Tier == NetworkPolicyTier {
		s.walks = p.walks()
	}
	if given == nil {
		s.given = &s.Policy
	}
	if p.Subject != nil {
		s.matcher = matcherOf(*p.Subject)
	}
	ns.policies[p.Key] = s
	restaged := m.noteStaged(ns, p.Key)
	m.policyChanged(ns, p.Key, old)
	m.rehearse(p.Key, restaged)
}

// selecting returns what is known of a policy; nil if there is none of that name.
func (m *Model) selecting(key Key) *selecting {
	if ns := m.namespaces[key.Namespace]; ns != nil {
		return ns.policies[key]
	}
	return nil
}

// clusterPolicies are the ClusterNetworkPolicies.
func (m *Model) clusterPolicies() map[Key]*selecting {
	if ns := m.namespaces[""]; ns != nil {
		return ns.policies
	}
	return nil
}

// deletePolicy forgets a policy.
func (m *Model) deletePolicy(key Key) {
	ns := m.in(key.Namespace)
	m.endQuarantine(key)
	if old := ns.policies[key]; old != nil {
		delete(ns.policies, key)
		restaged := m.noteStaged(ns, key)
		m.policyChanged(ns, key, old)
		m.rehearse(key, restaged)
	}
	m.dropIfEmpty(key.Namespace)
}

// policyChanged replaces a policy in all subjects that it may select: those of its namespace, or if it
// is a ClusterNetworkPolicy, of all. old is the policy as it was; nil if it is new. It looks at no other
// policy, as there may be thousands.
func (m *Model) policyChanged(ns *namespace, key Key, old *selecting) {
	m.dirtyPolicies[key] = struct{}{}
	now := ns.policies[key] // nil: deleted
	if key.Namespace != "" {
		m.policyChangedIn(ns, old, now)
		return
	}
	for _, of := range m.namespaces {
		m.policyChangedIn(of, old, now)
		for subject := range of.subjects {
			if m.pod(subject).undecided(of.object) {
				m.dirtySubjects[subject] = struct{}{}
			}
		}
	}
}

// policyChangedIn replaces a policy in the subjects of a namespace.
func (m *Model) policyChangedIn(ns *namespace, old, now *selecting) {
	for subject, by := range ns.subjects {
		at := -1
		if old != nil && old.subjects > 0 {
			at = slices.Index(by, old)
		}
		selects := now != nil && m.selects(now, m.pod(subject))
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

// restack works out anew which policies select this node's pods of a namespace, if another object of
// the namespace may change that.
func (m *Model) restack(ns *namespace, name string, before *Namespace) {
	changes := m.noteStagedBy(ns) || (before == nil) != (ns.object == nil)
	for _, s := range m.clusterPolicies() {
		changes = changes || s.matcher != nil && s.matcher.inNamespace(name, before) != s.matcher.inNamespace(name, ns.object)
	}
	if !changes {
		return
	}
	for _, key := range slices.Collect(maps.Keys(ns.subjects)) {
		m.refreshSubject(key)
	}
}

// rehearse works out anew which policies select this node's pods, where a policy has changed by which they are
// decided on in a model with the staged policies in force: it is staged, or was.
func (m *Model) rehearse(key Key, restaged bool) {
	if _, staged := m.staged[key]; !m.inForce || !staged && !restaged {
		return
	}
	for name, ns := range m.namespaces {
		if key.Namespace == "" || key.Namespace == name {
			for _, subject := range slices.Collect(maps.Keys(ns.subjects)) {
				m.refreshSubject(subject)
			}
		}
	}
}

// refreshSubject works out anew which policies select a pod of this node.
func (m *Model) refreshSubject(key Key) {
	ns := m.in(key.Namespace)
	before, was := ns.subjects[key]
	pod := m.pod(key)
	is := pod != nil && len(m.here(pod)) > 0
	if delete(m.rehearsed, key); is && m.inForce {
		m.noteRehearsed(pod, ns)
	}
	if !was && !is {
		return
	}
	m.dirtySubjects[key] = struct{}{}
	var now []*selecting
	if is {
		for _, policies := range []map[Key]*selecting{ns.policies, m.clusterPolicies()} {
			for _, s := range policies {
				if m.selects(s, pod) {
					now = append(now, s)
				}
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
