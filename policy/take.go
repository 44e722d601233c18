package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// Take returns what has changed since the last Take or Intent, or where that is much a
// part of it (see stage.go): then something is Staging, and the next Take goes on.
func (m *Model) Take() Delta { return m.take(newStage(stageSize)) }

// TakeReady is Take without what waits: what has come in since the last Take need not wait
// until more of that is handed out.
func (m *Model) TakeReady() Delta { return m.take(newStage(0)) }

func (m *Model) take(room *stage) Delta {
	d := Delta{
		Subjects:   map[Key]*Subject{},
		Policies:   map[Key]*Policy{},
		Peers:      map[Selector]Members[netip.Addr]{},
		NamedPorts: map[NamedPort]Members[Endpoint]{},
		Sections:   map[SectionKey][]Rule{},
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
		m.takeSubject(key, &d)
	}
	for _, key := range m.policiesInTurn() {
		m.takePolicy(key, &d, room)
	}
	m.takeGone(&d, room)
	m.dirtyPodCIDRs, m.dirtyCluster, m.dirtySubjects = false, false, map[Key]struct{}{}
	return d
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

// takeMembers takes what has changed of what policies name, as far as there is room, and
// closes the policies for which a budget has none.
func (m *Model) takeMembers(d *Delta, room *stage) {
	m.relax()
	for _, key := range slices.Collect(maps.Keys(m.dirtySubjects)) {
		m.shorten(key)
	}
	for _, keys := range []map[Key]struct{}{m.dirtyPolicies, m.dirtySubjects} {
		for key := range keys {
			if ns := m.namespaces[key.Namespace]; ns != nil {
				m.economise(ns)
			}
		}
	}
	m.economiseNode(2) // while some are counted and others are not, it cannot be fair
	for _, t := range m.turns(d, room) {
		if room.full(t.ready) {
			continue
		}
		before, closed := room.left(), len(m.news)
		t.take()
		for ns := range t.by {
			if room.limited() {
				ns.turn += before - room.left()
			}
			m.economise(ns)
		}
		m.economiseNode(2)
		if len(m.news) > closed && !room.limited() {
			m.takeGone(d, room) // at once: what is closed one after another would be far more than a budget
		}
	}
	m.economiseNode(1)
}

// takePeers takes what has changed of a selector's members: what has left, or what has come.
func (m *Model) takePeers(g *peers, leaving bool, d *Delta, room *stage) {
	if g.users == 0 {
		return
	}
	if g.fresh {
		room.set(m.amongst(g) * g.looks())
	}
	if change := g.take(leaving, func() []netip.Addr { return m.meant(g, room.byLabel) }, netip.Addr.Compare, room); !change.empty() {
		d.Peers[g.Selector] = d.Peers[g.Selector].and(change)
	}
	if g.settled() {
		delete(m.changedPeers, g)
	}
}

// takeNamed takes what has changed of a port name's members, as takePeers does.
func (m *Model) takeNamed(name NamedPort, t *tracked[Endpoint], leaving bool, d *Delta, room *stage) {
	if t.users == 0 {
		return
	}
	if t.fresh {
		room.set(len(m.claims))
	}
	if change := t.take(leaving, func() []Endpoint { return m.endpoints(name) }, compareEndpoint, room); !change.empty() {
		d.NamedPorts[name] = d.NamedPorts[name].and(change)
	}
	if t.settled() {
		delete(m.changedNamed, name)
	}
}

// amongst is among how many addresses those that a selector means are looked for.
func (m *Model) amongst(g *peers) int {
	if g.Namespace == "" {
		return len(m.claims)
	}
	return len(m.in(g.Namespace).pods)
}

// takePolicy takes a policy if all that it names is handed out, and there is room for its
// rules.
func (m *Model) takePolicy(key Key, d *Delta, room *stage) {
	now, had := m.policy(key), m.handed[key]
	switch rules := now.rules() + had.rules(); {
	case now != nil && !m.ready(now) || !room.hasRules(rules):
		if now == nil {
			return
		}
		if now = now.waits(had); now == nil {
			return
		}
	default:
		delete(m.dirtyPolicies, key)
		room.rules -= rules
		if ns := m.namespaces[key.Namespace]; ns != nil && room.limited() {
			ns.turn += rules * ruleCost
		}
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

// policiesInTurn are the policies that have changed, in the order of turns. Of one
// namespace, the largest are first: small ones always find room.
func (m *Model) policiesInTurn() []Key {
	keys := slices.Collect(maps.Keys(m.dirtyPolicies))
	if len(keys) < 2 {
		return keys
	}
	turn := func(key Key) int {
		if ns := m.namespaces[key.Namespace]; ns != nil {
			return ns.turn
		}
		return 0
	}
	rules := make(map[Key]int, len(keys))
	for _, key := range keys {
		rules[key] = m.policy(key).rules() + m.handed[key].rules()
	}
	slices.SortFunc(keys, func(a, b Key) int {
		return cmp.Or(cmp.Compare(turn(a), turn(b)), cmp.Compare(rules[b], rules[a]), compareKey(a, b))
	})
	return keys
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
		if form.Sections[d] = nil; p.Isolates[d] && had.Isolates[d] {
			form.Rules[d], form.Sections[d] = had.Rules[d], had.Sections[d]
		}
	}
	return &form
}

// takeGone takes what no policy names any more, as much as there is room for: no packet
// meets it.
func (m *Model) takeGone(d *Delta, room *stage) {
	if m.left = false; m.takeGoneSections(d, room) {
		return // those that are left name sets
	}
	for g := range m.changedPeers {
		if g.users > 0 || m.leave(g.fresh, 1, room) {
			continue
		}
		if !g.fresh {
			d.Peers[g.Selector] = Members[netip.Addr]{Gone: true}
		}
		m.drop(g)
		delete(m.changedPeers, g)
	}
	for name, t := range m.changedNamed {
		if t.users > 0 || m.leave(t.fresh, 1, room) {
			continue
		}
		if !t.fresh {
			d.NamedPorts[name] = Members[Endpoint]{Gone: true}
		}
		delete(m.named, name)
		delete(m.changedNamed, name)
	}
}

// leave reports whether what takes the kernel as long as so many sets, and which nothing names,
// is left for the next time. What was never handed out takes no room.
func (m *Model) leave(fresh bool, sets int, room *stage) bool {
	if fresh {
		return false
	}
	if room.gone <= 0 {
		m.left = true
		return true
	}
	room.gone -= sets
	return false
}

// Intent returns all that the node must enforce; deltas count from there.
func (m *Model) Intent() Intent {
	d := m.take(m.wholeStage())
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
		if taken := d.Peers[s]; taken.New {
			in.Peers[s] = setOf(taken.Add)
		} else {
			in.Peers[s] = setOf(m.meant(g, nil))
		}
	}
	for key, s := range m.sections {
		in.Sections[key] = s.rules
	}
	for name := range m.named {
		if taken := d.NamedPorts[name]; taken.New {
			in.NamedPorts[name] = setOf(taken.Add)
		} else {
			in.NamedPorts[name] = setOf(m.endpoints(name))
		}
	}
	return in
}

// podsByLabel are the pods with each label, or label's key, that a selector asks for which
// is to be looked at for the first time. At the start these are all, and to ask each of
// them about each pod would take seconds.
func (m *Model) podsByLabel() map[string][]*Pod {
	pods := map[string][]*Pod{}
	for g := range m.changedPeers {
		if g.fresh && g.Namespace == "" {
			for _, asked := range g.asks() {
				pods[asked] = nil
			}
		}
	}
	add := func(asked string, pod *Pod) {
		if of, is := pods[asked]; is {
			pods[asked] = append(of, pod)
		}
	}
	for _, ns := range m.namespaces {
		for _, pod := range ns.pods {
			if len(pods) == 0 {
				return pods
			}
			for key, value := range pod.Labels.All() {
				add(key, pod)
				add(key+"="+value, pod)
			}
		}
	}
	return pods
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

// policy returns a policy that selects a pod of this node; nil if it is none.
func (m *Model) policy(key Key) *Policy {
	ns := m.namespaces[key.Namespace]
	if ns == nil || ns.policies[key] == nil || ns.policies[key].subjects == 0 {
		return nil
	}
	return &ns.policies[key].Policy
}

// meant are the addresses of the pods that a selector means. If byLabel has the pods with
// what it asks for, it looks among them.
func (m *Model) meant(g *peers, byLabel map[string][]*Pod) (ips []netip.Addr) {
	look := func(pod *Pod, object *Namespace) {
		if !g.matches(pod, object) {
			return
		}
		for _, ip := range pod.IPs {
			// The first of several that have it speaks for all.
			holders := m.holders(ip)
			if len(holders) > 0 && holders[0] == pod && (len(holders) == 1 || m.allMatch(g, holders)) {
				ips = append(ips, ip)
			}
		}
	}
	asked := g.asks()
	if len(asked) > 0 && g.Namespace == "" && !slices.ContainsFunc(asked, func(label string) bool { _, there := byLabel[label]; return !there }) {
		seen := map[*Pod]struct{}{} // by one of several labels
		for _, label := range asked {
			for _, pod := range byLabel[label] {
				if _, done := seen[pod]; !done {
					seen[pod] = struct{}{}
					look(pod, m.in(pod.Namespace).object)
				}
			}
		}
		return ips
	}
	wanted := g.wanted()
	for name, ns := range m.namespaces {
		if !g.inNamespace(name, ns.object) {
			continue
		}
		for _, pod := range ns.pods {
			if wanted == nil || wanted.oneOf(pod.Labels) {
				look(pod, ns.object)
			}
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
