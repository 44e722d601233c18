package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// Take returns what has changed since the last Take or Intent, or where that is much a
// part of it (see stage.go): then something is Staging, and the next Take goes on.
func (m *Model) Take() Delta { return m.take(&stage{room: stageSize}) }

func (m *Model) take(room *stage) Delta {
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
	m.takeMembers(&d, room)
	for key := range m.dirtySubjects {
		d.Subjects[key] = m.subject(key)
	}
	for key := range m.dirtyPolicies {
		m.takePolicy(key, &d)
	}
	m.takeGone(&d)
	m.dirtyPodCIDRs, m.dirtyCluster, m.dirtySubjects = false, false, map[Key]struct{}{}
	return d
}

// takeMembers takes what has changed of what policies name, as far as there is room, and
// closes the policies for which a budget has none.
func (m *Model) takeMembers(d *Delta, room *stage) {
	m.relax()
	for _, key := range slices.Collect(maps.Keys(m.dirtySubjects)) {
		m.shorten(key)
	}
	for key := range m.dirtyPolicies {
		if ns := m.namespaces[key.Namespace]; ns != nil {
			m.economise(map[*namespace]int{ns: 1})
		}
	}
	isReady := func(g *peers) bool { return g.ready() }
	var used []*peers
	for g := range m.changedPeers {
		if g.users > 0 {
			used = append(used, g)
		}
	}
	for _, g := range inTurn(used, isReady, func(g *peers) map[*namespace]int { return g.by }) {
		if g.users == 0 || !g.ready() && room.full() {
			continue
		}
		if g.fresh {
			room.set(m.amongst(g))
		}
		if change, changed := g.take(func() []netip.Addr { return m.meant(g) }, netip.Addr.Compare, room); changed {
			d.Peers[g.Selector] = change
		}
		m.economise(g.by)
		if g.ready() && g.users > 0 {
			delete(m.changedPeers, g)
		}
	}
	named := slices.Collect(maps.Keys(m.changedNamed))
	isNamedReady := func(n NamedPort) bool { return m.changedNamed[n].ready() }
	for _, name := range inTurn(named, isNamedReady, func(n NamedPort) map[*namespace]int { return m.changedNamed[n].by }) {
		t := m.changedNamed[name]
		if t.users == 0 || !t.ready() && room.full() {
			continue
		}
		if t.fresh {
			room.set(len(m.claims))
		}
		if change, changed := t.take(func() []Endpoint { return m.endpoints(name) }, compareEndpoint, room); changed {
			d.NamedPorts[name] = change
		}
		m.economise(t.by)
		if t.ready() && t.users > 0 {
			delete(m.changedNamed, name)
		}
	}
	m.economiseNode()
}

// amongst is among how many addresses those that a selector means are looked for.
func (m *Model) amongst(g *peers) int {
	if g.Namespace == "" {
		return len(m.claims)
	}
	return len(m.in(g.Namespace).pods)
}

// takePolicy takes a policy if all that it names is handed out.
func (m *Model) takePolicy(key Key, d *Delta) {
	now, had := m.policy(key), m.handed[key]
	if now != nil && !m.ready(now) {
		if now = now.waits(had); now == nil {
			return
		}
	} else {
		delete(m.dirtyPolicies, key)
	}
	d.Policies[key] = now
	if now != nil {
		m.use(nil, now, 1)
		m.handed[key] = now
	} else {
		delete(m.handed, key)
	}
	if had != nil {
		m.use(nil, had, -1)
	}
}

// waits is the form in which a policy waits until what it names is handed out: as it was
// handed out, nil if that is so already, or closed if it was not, or for other pods.
func (p *Policy) waits(had *Policy) *Policy {
	if had == nil || had.Subject == nil || *had.Subject != *p.Subject {
		closed := p.Closed()
		if had != nil && !had.open() && had.Isolates == p.Isolates {
			return nil
		}
		return &closed
	}
	if had.Isolates == p.Isolates {
		return nil
	}
	form := *p
	for _, d := range Directions {
		form.Rules[d] = nil
		if p.Isolates[d] && had.Isolates[d] {
			form.Rules[d] = had.Rules[d]
		}
	}
	return &form
}

// takeGone takes what no policy names any more.
func (m *Model) takeGone(d *Delta) {
	for g := range m.changedPeers {
		if g.users == 0 {
			if change, changed := g.take(nil, nil, nil); changed {
				d.Peers[g.Selector] = change
			}
			m.drop(g)
			delete(m.changedPeers, g)
		}
	}
	for name, t := range m.changedNamed {
		if t.users == 0 {
			if change, changed := t.take(nil, nil, nil); changed {
				d.NamedPorts[name] = change
			}
			delete(m.named, name)
			delete(m.changedNamed, name)
		}
	}
}

// Intent returns all that the node must enforce; deltas count from there.
func (m *Model) Intent() Intent {
	m.take(&stage{room: unlimited})
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
