package policy

import (
	"net/netip"
	"slices"
)

// members follows who is in the peers and named ports that active policies
// use. It does not keep the members: it keeps how they differ from what was
// last handed out, which is little.
type members struct {
	peers map[Selector]*peers
	// byLabel finds the peers that may mean a pod without asking them all. Peers that are not
	// handed out yet are not in it: when they are, all their members are handed out.
	byLabel map[labelIndex]map[*peers]struct{}
	nodePeers
	named map[NamedPort]*tracked[Endpoint]
	// changedPeers and changedNamed are those that Take has to look at.
	changedPeers map[*peers]struct{}
	changedNamed map[NamedPort]*tracked[Endpoint]
	// sections are those of the active policies, changedSections those that Take has to
	// look at.
	sections, changedSections map[SectionKey]*section
	// total is how many members all selectors and port names have that a policy names, plus what
	// the policies' ranges of addresses and ports count.
	total int
}

// labelIndex is a label that all pods of a selector have, with the one
// namespace it looks in; either is empty where there is none.
type labelIndex struct{ namespace, label string }

// peers is a selector in use.
type peers struct {
	Selector
	// matchers are those of its alternatives, once it is prepared. It is not prepared before it
	// is handed out: to read thousands of selectors takes long, and until then it is asked about
	// no pod.
	matchers []*matcher
	tracked[netip.Addr]
}

// prepare reads the selector.
func (g *peers) prepare() {
	if g.matchers == nil {
		g.matchers = matchersOf(g.Selector)
	}
}

// matches reports whether the selector means a pod of that namespace.
func (g *peers) matches(pod *Pod, ns *Namespace) bool {
	return slices.ContainsFunc(g.matchers, func(m *matcher) bool { return m.matches(pod, ns) })
}

// inNamespace reports whether the selector looks in that namespace at all.
func (g *peers) inNamespace(name string, ns *Namespace) bool {
	return slices.ContainsFunc(g.matchers, func(m *matcher) bool { return m.inNamespace(name, ns) })
}

// sameNamespace reports whether the selector means the same pods of a namespace before and
// after its object has changed.
func (g *peers) sameNamespace(name string, before, after *Namespace) bool {
	return !slices.ContainsFunc(g.matchers, func(m *matcher) bool { return m.inNamespace(name, before) != m.inNamespace(name, after) })
}

// asks are labels, or keys of labels, such that every pod that the selector means has one of
// them (see matcher.asks). It is nil if an alternative asks for no label.
func (g *peers) asks() (asked []string) {
	for _, m := range g.matchers {
		label := m.asks()
		if label == "" {
			return nil
		}
		asked = append(asked, label)
	}
	return asked
}

// tracked is a set of members in use.
type tracked[T comparable] struct {
	// users counts the policies that name it, both as they are and as they were handed out. by
	// counts, by namespace, only the policies as they are.
	users int
	by    map[*namespace]int
	// closing counts those of the users whose rules deny or pass the members, in some place.
	closing int
	// fresh: not handed out yet. When it is, all its members are, so no change is noted before.
	fresh bool
	// partial: it is handed out bit by bit, as no policy that was handed out names it.
	partial bool
	// size is how many members there are, once it is not fresh. It is counted in *total if a
	// policy names the set.
	size  int
	total *int
	// waiting are members of a partial set that wait to be handed out for the first time, and
	// searched is how often one was looked for.
	waiting  []T
	searched int
	// changed are other members that differ from what was handed out: true if the member is in
	// the set now, false if it is not any more. leaving is how many are false.
	changed map[T]bool
	leaving int
}

// ready reports whether all its members have been handed out, but for changes.
func (t *tracked[T]) ready() bool { return !t.fresh && !t.partial }

// grow changes the count of members by a number, which may be negative.
func (t *tracked[T]) grow(by int) {
	t.size += by
	if len(t.by) > 0 {
		*t.total += by
	}
	for ns := range t.by {
		ns.elements += by
	}
}

// use adds by to the number of users, and to that of the namespace's, for a rule with this action. A
// nil namespace stands for what was last handed out.
func (t *tracked[T]) use(ns *namespace, by int, action Action) {
	t.users += by
	if action != Accept {
		t.closing += by
	}
	if ns == nil {
		return
	}
	if t.by == nil {
		t.by = map[*namespace]int{}
	}
	if len(t.by) == 0 {
		*t.total += t.size
	}
	if t.by[ns] == 0 {
		ns.elements += t.size
	}
	if t.by[ns] += by; t.by[ns] == 0 {
		ns.elements -= t.size
		delete(t.by, ns)
	}
	if len(t.by) == 0 {
		*t.total -= t.size
	}
}

func newMembers() members {
	return members{
		peers:        map[Selector]*peers{},
		byLabel:      map[labelIndex]map[*peers]struct{}{},
		nodePeers:    newNodePeers(),
		named:        map[NamedPort]*tracked[Endpoint]{},
		changedPeers: map[*peers]struct{}{},
		changedNamed: map[NamedPort]*tracked[Endpoint]{},
		sections:     map[SectionKey]*section{}, changedSections: map[SectionKey]*section{},
	}
}

// note notes that a member came in or went out. Of a member that comes and goes between two
// hand-outs nothing is handed out.
func (t *tracked[T]) note(member T, in bool) {
	switch {
	case t.fresh:
	case in:
		t.grow(1)
	default:
		t.grow(-1)
	}
	if !in && t.forget(member) {
		return
	}
	switch was, noted := t.changed[member]; {
	case t.fresh:
	case noted && was != in:
		t.settle(member)
	case !noted:
		if t.changed == nil {
			t.changed = map[T]bool{}
		}
		if t.changed[member] = in; !in {
			t.leaving++
		}
	}
}

// mostSearches is how often a member is looked for by going through the waiting members of a
// set. After that they become a map, as all pods of a namespace may leave the set at once.
const mostSearches = 16

// forget forgets a member that waits to be handed out, and reports whether it did.
func (t *tracked[T]) forget(member T) bool {
	if t.searched++; t.searched > mostSearches && len(t.waiting) > 0 {
		if t.changed == nil {
			t.changed = make(map[T]bool, len(t.waiting))
		}
		for _, waiting := range t.waiting {
			t.changed[waiting] = true
		}
		t.waiting = nil
	}
	at := slices.Index(t.waiting, member)
	if at >= 0 {
		t.waiting[at] = t.waiting[len(t.waiting)-1]
		t.waiting = t.waiting[:len(t.waiting)-1]
	}
	return at >= 0
}

// settle forgets that a member differs from what was handed out.
func (t *tracked[T]) settle(member T) {
	if in, noted := t.changed[member]; noted && !in {
		t.leaving--
	}
	delete(t.changed, member)
}

// use counts that a policy begins to use the members that its rules name (by is 1), or ceases
// to (by is -1). ns is the policy's namespace; nil stands for the policies as they were last
// handed out. Members that nobody uses any more are dropped by the next Take and not before,
// because somebody may begin to use them again until then.
func (ms *members) use(ns *namespace, p *Policy, by int) {
	ms.useSections(p, by)
	for _, d := range Directions {
		for _, rule := range p.Rules[d] {
			for _, s := range rule.Peers {
				g := ms.peers[s]
				if g == nil {
					g = &peers{Selector: s, tracked: tracked[netip.Addr]{fresh: true, total: &ms.total}}
					ms.peers[s] = g
				}
				if g.use(ns, by, rule.Action); g.fresh || g.users == 0 {
					ms.changedPeers[g] = struct{}{}
				}
			}
			for _, name := range rule.NamedPorts {
				t := ms.named[name]
				if t == nil {
					t = &tracked[Endpoint]{fresh: true, total: &ms.total}
					ms.named[name] = t
				}
				if t.use(ns, by, rule.Action); t.fresh || t.users == 0 {
					ms.changedNamed[name] = t
				}
			}
		}
	}
}

// ready reports whether all that a policy's rules name has been handed out.
func (ms *members) ready(p *Policy) bool {
	for key := range p.sectionKeys() {
		if ms.sections[key].fresh {
			return false
		}
	}
	for _, d := range Directions {
		for _, rule := range p.Rules[d] {
			for _, s := range rule.Peers {
				if !ms.peers[s].ready() {
					return false
				}
			}
			for _, name := range rule.NamedPorts {
				if !ms.named[name].ready() {
					return false
				}
			}
		}
	}
	return true
}

// indices are the keys of byLabel under which the selector is found: one for each alternative.
func (g *peers) indices() (at []labelIndex) {
	for _, m := range g.matchers {
		at = append(at, labelIndex{namespace: g.Namespace, label: m.required()})
	}
	return at
}

// follow has changes of pods noted from now on for a selector, which is about to be handed out.
func (ms *members) follow(g *peers) {
	if g.OfNodes {
		ms.followed[g] = parseCanonical(g.Nodes)
		return
	}
	for _, at := range g.indices() {
		if ms.byLabel[at] == nil {
			ms.byLabel[at] = map[*peers]struct{}{}
		}
		ms.byLabel[at][g] = struct{}{}
	}
}

func (ms *members) drop(g *peers) {
	delete(ms.peers, g.Selector)
	delete(ms.followed, g)
	if g.fresh {
		return
	}
	for _, at := range g.indices() {
		if delete(ms.byLabel[at], g); len(ms.byLabel[at]) == 0 {
			delete(ms.byLabel, at)
		}
	}
}

func (ms *members) toggle(g *peers, ip netip.Addr, in bool) {
	g.note(ip, in)
	ms.changedPeers[g] = struct{}{}
}

// take turns what was noted into a change and forgets it, except what is more than a portion has
// room for. It takes either the members that have left or those that have come. The slice that
// all returns is not kept.
func (t *tracked[T]) take(leaving bool, all func() []T, compare func(a, b T) int, room *portion) (change Members[T]) {
	if t.fresh {
		change.New = true
		t.fresh, t.partial = false, true
		all := all()
		t.grow(len(all))
		n := room.take(len(all))
		change.Add, t.waiting = slices.Clone(all[:n]), slices.Clone(all[n:])
		slices.SortFunc(change.Add, compare)
	} else {
		change = t.takeChanged(leaving, room)
		slices.SortFunc(change.Add, compare)
		slices.SortFunc(change.Remove, compare)
	}
	if len(t.changed)+len(t.waiting) == 0 {
		t.partial, t.changed, t.waiting = false, nil, nil
	}
	return change
}

// and is one change after another of the same set.
func (m Members[T]) and(later Members[T]) Members[T] {
	return Members[T]{New: m.New || later.New, Add: slices.Concat(m.Add, later.Add), Remove: slices.Concat(m.Remove, later.Remove)}
}

// empty reports whether the change changes nothing.
func (m Members[T]) empty() bool { return !m.New && len(m.Add)+len(m.Remove) == 0 }

// settled reports whether all its members have been handed out as they are.
func (t *tracked[T]) settled() bool { return t.ready() && len(t.changed) == 0 }

// takeChanged takes the members that have left, or else those that have come, as many as there
// is room for.
func (t *tracked[T]) takeChanged(leaving bool, room *portion) (change Members[T]) {
	n := len(t.changed) - t.leaving + len(t.waiting)
	if leaving {
		n = t.leaving
	}
	if t.partial {
		n = room.take(n)
	} else {
		n = room.takeMet(n)
	}
	if !leaving {
		first := max(len(t.waiting)-n, 0)
		change.Add, t.waiting = slices.Clone(t.waiting[first:]), t.waiting[:first]
	}
	for member, in := range t.changed {
		if len(change.Add)+len(change.Remove) == n {
			break
		}
		switch {
		case leaving && !in:
			change.Remove = append(change.Remove, member)
		case !leaving && in:
			change.Add = append(change.Add, member)
		default:
			continue
		}
		t.settle(member)
	}
	return change
}
