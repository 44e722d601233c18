package policy

import "net/netip"

// What a node would enforce if some objects were others, without a second copy of what its model knows. Its
// policies, and the pods that they are about, are few beside the cluster's pods. Who has other addresses is
// looked up when somebody asks about a packet from or to one.

// Excerpt is what a Model knows of its own node: its pods, the policies that can be about them, and what the CNI
// plugin has made. It is a value that nobody changes.
type Excerpt struct {
	node     string
	ignored  bool
	podCIDRs []netip.Prefix
	budget   int
	facts    []Change
	// quarantined has, for each policy that is quarantined, the reason.
	quarantined map[Key]string
}

// Excerpt returns it. That takes as long as there are namespaces, and pods and policies that concern the node.
func (m *Model) Excerpt() Excerpt {
	e := Excerpt{node: m.node, ignored: m.ignored, podCIDRs: m.podCIDRs, budget: m.budget, quarantined: map[Key]string{}}
	if own, known := m.nodes[m.node]; known {
		e.facts = append(e.facts, SetNode(own))
	}
	for _, a := range m.made {
		e.facts = append(e.facts, SetAttachment(a))
	}
	for name, ns := range m.namespaces {
		if len(ns.subjects) == 0 && name != "" { // that of ClusterNetworkPolicies has no pods
			continue
		}
		for key := range ns.subjects {
			e.facts = append(e.facts, m.HoldersAt(m.pod(key).IPs...)...)
		}
		for key, s := range ns.policies {
			e.facts = append(e.facts, SetPolicy(*s.given))
			if reason, is := m.quarantined[key]; is {
				e.quarantined[key] = reason
			}
		}
	}
	e.facts = append(e.facts, Resolved(m.Resolutions())) // behind the pods that they are for
	return e
}

// HoldersAt are all pods and nodes that the model knows by one of the addresses, with what decides which of
// them has it, and the pods' Namespaces.
func (m *Model) HoldersAt(addrs ...netip.Addr) (facts []Change) {
	for _, ip := range addrs {
		for _, node := range m.listers[ip] {
			facts = append(facts, SetNode(m.nodes[node]))
		}
		for _, a := range m.attached[ip] {
			facts = append(facts, SetAttachment(a))
		}
		for _, pod := range m.claims[ip] {
			if ns := m.namespaces[pod.Namespace]; ns != nil && ns.object != nil {
				facts = append(facts, SetNamespace(*ns.object))
			}
			facts = append(facts, SetPod(pod))
		}
	}
	return facts
}

// Supposed is a Model of what would be if some objects were others. It knows the pods of its node and, of all
// other addresses, those of which it was told by Learn.
type Supposed struct {
	*Model
	pods       map[Key]*Pod
	namespaces map[string]*Namespace
}

// Suppose returns a Model of what would be after changes of policies, Namespaces and pods. Of a pod only the labels
// and ports count: the node knows better where it is. What is quarantined stays so if it does not change. As the
// model does not know all members of what policies name, it finds no policy to be too large for its
// namespace's budget.
func (e Excerpt) Suppose(changes ...Change) *Supposed {
	s := &Supposed{Model: NewModel(e.node), pods: map[Key]*Pod{}, namespaces: map[string]*Namespace{}}
	s.SetBudget(e.budget)
	if e.ignored {
		s.IgnorePodCIDRs()
	}
	s.RememberPodCIDRs(e.podCIDRs)
	for _, c := range changes {
		switch c := c.(type) {
		case podChange:
			s.pods[c.key] = c.pod
		case namespaceChange:
			s.namespaces[c.name] = c.namespace
		}
	}
	s.Learn(e.facts...)
	for key, reason := range e.quarantined {
		s.Quarantine(*s.selecting(key).given, reason)
	}
	for _, c := range changes {
		if _, ofPod := c.(podChange); !ofPod {
			s.Apply(c)
		}
	}
	return s
}

// Learn takes in facts of the model that the Excerpt is of (see Model.HoldersAt), as they would be.
func (s *Supposed) Learn(facts ...Change) {
	for _, c := range facts {
		switch fact := c.(type) {
		case podChange:
			if like := s.pods[fact.key]; like != nil && !fact.pod.Unread {
				pod := *fact.pod
				pod.Labels, pod.Ports = like.Labels, like.Ports
				c = SetPod(&pod)
			}
		case namespaceChange:
			if supposed, is := s.namespaces[fact.name]; is {
				c = namespaceChange{fact.name, supposed}
			}
		}
		s.Apply(c)
	}
}
