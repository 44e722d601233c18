package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// Take returns what has changed since the last Take or Intent. If that is much, it returns a part
// of it (see portion.go): then Pending reports true, and the next Take goes on.
func (m *Model) Take() Delta { return m.take(newPortion(portionSize)) }

// TakeReady is Take without the changes that can be handed out bit by bit. By it, what has come in
// since the last Take need not wait until more of these is handed out.
func (m *Model) TakeReady() Delta { return m.take(newPortion(0)) }

func (m *Model) take(room *portion) Delta {
	if m.inForce {
		room = m.wholePortion() // a policy that is closed meanwhile would be told as one that denies what it allows
	}
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
	d.Orphans, d.Doubtful = m.takeOrphans(), m.takeDoubtful()
	if m.dirtyCluster {
		cluster, nodes := clusterOf(maps.Values(m.nodes), m.podCIDRs), addrsOf(maps.Values(m.nodes))
		d.Cluster, d.NodeAddrs = &cluster, &nodes
	}
	d.Nodes, d.Attachments = takeChanged(m.dirtyNodes, m.nodes), takeChanged(m.dirtyAttachments, m.made)
	m.takeMembers(&d, room)
	held := m.takeSubjects(&d, room)
	m.resolutions.take(&d)
	for _, key := range m.policiesInTurn() {
		if _, is := held[key]; !is {
			m.takePolicy(key, &d, room)
		}
	}
	m.takeGone(&d, room)
	m.dirtyPodCIDRs, m.dirtyCluster = false, false
	if len(m.dirtyPolicies) > 0 {
		d.Unfinished = maps.Clone(m.dirtyPolicies)
	}
	return d
}

// takeChanged takes what has changed of some values, as they are now; nil says gone.
func takeChanged[K comparable, V any](dirty map[K]struct{}, now map[K]V) map[K]*V {
	changed := make(map[K]*V, len(dirty))
	for key := range dirty {
		if value, known := now[key]; known {
			changed[key] = &value
		} else {
			changed[key] = nil
		}
	}
	clear(dirty)
	return changed
}

// takeMembers takes the changed members of what policies name, as far as there is room, and closes
// the policies for which a budget has no room.
func (m *Model) takeMembers(d *Delta, room *portion) {
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
	m.economiseNode(2) // with room to spare: it cannot be fair while some members are not counted yet
	for _, t := range m.turns(d, room) {
		if room.full(t.ready) {
			continue
		}
		before, closed := room.remaining(), len(m.news)
		t.take()
		for ns := range t.by {
			if room.limited() {
				ns.turn += before - room.remaining()
			}
			m.economise(ns)
		}
		m.economiseNode(2)
		if len(m.news) > closed && !room.limited() {
			m.takeGone(d, room) // at once: policies closed one after another would together take far more than a budget
		}
	}
	m.economiseNode(1)
}

// takePeers takes the changed members of a selector: those that have left, or those that have
// come.
func (m *Model) takePeers(g *peers, leaving bool, d *Delta, room *portion) {
	if g.users == 0 {
		return
	}
	if g.fresh {
		g.prepare()
		m.follow(g)
		room.set(m.amongst(g) * g.looks())
	}
	if change := g.take(leaving, func() []netip.Addr { return m.meant(g, room.byLabel) }, netip.Addr.Compare, room); !change.empty() {
		d.Peers[g.Selector] = d.Peers[g.Selector].and(change)
	}
	if g.settled() {
		delete(m.changedPeers, g)
	}
}

// takeNamed takes the changed members of a port name, as takePeers does.
func (m *Model) takeNamed(name NamedPort, t *tracked[Endpoint], leaving bool, d *Delta, room *portion) {
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

// amongst is among how many addresses the members of a selector are looked for.
func (m *Model) amongst(g *peers) int {
	if g.OfNodes {
		return len(m.listers)
	}
	if g.Namespace == "" {
		return len(m.claims)
	}
	return len(m.in(g.Namespace).pods)
}

// takePolicy takes a policy if all that it names is handed out, and there is room for its
// rules.
func (m *Model) takePolicy(key Key, d *Delta, room *portion) {
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
	m.hand(key, now, had, d)
}

// hand hands out a policy as it is now, in place of how it was handed out before.
func (m *Model) hand(key Key, now, had *Policy, d *Delta) {
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

// policiesInTurn are the NetworkPolicies that have changed, in the order of turns. Within a namespace
// the largest come first, because small ones always find room.
func (m *Model) policiesInTurn() []Key {
	keys := slices.DeleteFunc(slices.Collect(maps.Keys(m.dirtyPolicies)), func(key Key) bool { return key.Namespace == "" })
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
		closed := p.WithoutRules()
		if had != nil && !had.hasRules() && had.Isolates == p.Isolates {
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

// takeGone removes what no policy names any more, as much as there is room for. It can wait, as no
// packet meets it.
func (m *Model) takeGone(d *Delta, room *portion) {
	if m.removalsPending = false; m.takeGoneSections(d, room) {
		return // the sections that wait still name sets
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

// leave reports whether something that no policy names any more has to wait for the next Take,
// because there is no room to remove it. sets is how many sets take the kernel as long. What is
// fresh was never handed out, and takes no room.
func (m *Model) leave(fresh bool, sets int, room *portion) bool {
	if fresh {
		return false
	}
	if room.removals <= 0 {
		m.removalsPending = true
		return true
	}
	room.removals -= sets
	return false
}

// Intent returns all that the node must enforce. The next Take returns what has changed since.
func (m *Model) Intent() Intent {
	d := m.take(m.wholePortion())
	in := newIntent()
	in.PodCIDRs = slices.Clone(m.podCIDRs)
	in.Cluster, in.NodeAddrs = clusterOf(maps.Values(m.nodes), m.podCIDRs), addrsOf(maps.Values(m.nodes))
	maps.Copy(in.Nodes, m.nodes)
	maps.Copy(in.Attachments, m.made)
	maps.Copy(in.Orphans, m.orphans)
	maps.Copy(in.Doubtful, m.doubtful)
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
	maps.Copy(in.Resolutions, m.resolutions.until)
	for name := range m.named {
		if taken := d.NamedPorts[name]; taken.New {
			in.NamedPorts[name] = setOf(taken.Add)
		} else {
			in.NamedPorts[name] = setOf(m.endpoints(name))
		}
	}
	return in
}

// policy returns the policy of that name if it selects a pod of this node; else nil.
func (m *Model) policy(key Key) *Policy {
	ns := m.namespaces[key.Namespace]
	if ns == nil || ns.policies[key] == nil || ns.policies[key].subjects == 0 {
		return nil
	}
	return &ns.policies[key].Policy
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
