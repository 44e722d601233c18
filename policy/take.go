package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// Take returns what has changed since the last Take or Intent.
func (m *Model) Take() Delta {
	d := Delta{
		Subjects:   map[Key]*Subject{},
		Policies:   map[Key]*Policy{},
		Peers:      map[Selector]Members[netip.Addr]{},
		NamedPorts: map[NamedPort]Members[Endpoint]{},
	}
	if m.dirtyPodCIDRs {
		podCIDRs := slices.Clone(m.podCIDRs)
		d.PodCIDRs = &podCIDRs
	}
	d.Orphans = m.takeOrphans()
	if m.dirtyCluster {
		cluster, nodes := clusterOf(maps.Values(m.nodes), m.podCIDRs), addrsOf(maps.Values(m.nodes))
		d.Cluster, d.Nodes = &cluster, &nodes
	}
	for key := range m.dirtySubjects {
		d.Subjects[key] = m.subject(key)
	}
	for key := range m.dirtyPolicies {
		d.Policies[key] = m.policy(key)
	}
	for g := range m.changedPeers {
		if change, changed := g.take(func() []netip.Addr { return m.meant(g) }, netip.Addr.Compare); changed {
			d.Peers[g.Selector] = change
		}
		if g.users == 0 {
			m.drop(g)
		}
	}
	for name, t := range m.changedNamed {
		if change, changed := t.take(func() []Endpoint { return m.endpoints(name) }, compareEndpoint); changed {
			d.NamedPorts[name] = change
		}
		if t.users == 0 {
			delete(m.named, name)
		}
	}
	m.forget()
	return d
}

// Intent returns all that the node must enforce; deltas count from there.
func (m *Model) Intent() Intent {
	m.Take()
	in := newIntent()
	in.PodCIDRs = slices.Clone(m.podCIDRs)
	in.Cluster, in.Nodes = clusterOf(maps.Values(m.nodes), m.podCIDRs), addrsOf(maps.Values(m.nodes))
	maps.Copy(in.Orphans, m.orphans)
	for _, ns := range m.namespaces {
		for key := range ns.subjects {
			in.Subjects[key] = *m.subject(key)
		}
		for key, s := range ns.policies {
			if s.subjects > 0 {
				in.Policies[key] = s.Policy
			}
		}
	}
	for s, g := range m.peers {
		in.Peers[s] = setOf(m.meant(g))
	}
	for name := range m.named {
		in.NamedPorts[name] = setOf(m.endpoints(name))
	}
	return in
}

func (m *Model) forget() {
	m.dirty = newDirty()
	m.changedPeers = map[*peers]struct{}{}
	m.changedNamed = map[NamedPort]*tracked[Endpoint]{}
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
	for _, policy := range selecting {
		for _, d := range Directions {
			if policy.Isolates[d] {
				s.Isolating[d] = append(s.Isolating[d], policy.Key)
			}
		}
	}
	for _, d := range Directions {
		sortedKeys(s.Isolating[d])
	}
	return s
}

// policy returns a policy that selects a pod of this node; nil if it is none.
func (m *Model) policy(key Key) *Policy {
	ns := m.namespaces[key.Namespace]
	if ns == nil || ns.policies[key] == nil || ns.policies[key].subjects == 0 {
		return nil
	}
	return &ns.policies[key].Policy
}

// meant are the addresses of the pods that a selector means.
func (m *Model) meant(g *peers) (ips []netip.Addr) {
	look := func(ns *namespace) {
		for _, pod := range ns.pods {
			if !g.matches(pod, ns.object) {
				continue
			}
			for _, ip := range pod.IPs {
				// The first of several that have it speaks for all.
				if holders := m.holders(ip); len(holders) > 0 && holders[0] == pod && m.allMatch(g, holders) {
					ips = append(ips, ip)
				}
			}
		}
	}
	if g.Namespace != "" {
		if ns := m.namespaces[g.Namespace]; ns != nil {
			look(ns)
		}
		return ips
	}
	for name, ns := range m.namespaces {
		if g.inNamespace(name, ns.object) {
			look(ns)
		}
	}
	return ips
}

// endpoints are the ports of pods that go by a name.
func (m *Model) endpoints(name NamedPort) (endpoints []Endpoint) {
	look := func(pod *Pod) {
		for _, port := range pod.Ports {
			if !name.means(pod, port, m.node) {
				continue
			}
			for _, ip := range pod.IPs {
				if holders := m.holders(ip); len(holders) > 0 && holders[0] == pod && name.meansAll(holders, port, m.node) {
					endpoints = append(endpoints, Endpoint{Addr: ip, Protocol: port.Protocol, Port: port.Number})
				}
			}
		}
	}
	for _, ns := range m.namespaces {
		if name.Scope == Local { // subjects are all of the node's pods that have an address
			for key := range ns.subjects {
				look(ns.pods[key.Name])
			}
			continue
		}
		for _, pod := range ns.pods {
			look(pod)
		}
	}
	return endpoints
}

func compareEndpoint(a, b Endpoint) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
}

func setOf[T comparable](members []T) map[T]struct{} {
	return maps.Collect(func(yield func(T, struct{}) bool) {
		for _, member := range members {
			if !yield(member, struct{}{}) {
				return
			}
		}
	})
}
