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
	// byLabel finds the peers that may mean a pod without asking them all. Those that are
	// not handed out yet are not there: all their members will be.
	byLabel map[labelIndex]map[*peers]struct{}
	named   map[NamedPort]*tracked[Endpoint]
	// changed are those that Take has to look at.
	changedPeers map[*peers]struct{}
	changedNamed map[NamedPort]*tracked[Endpoint]
	// sections are those of the active policies, changedSections those that Take has to
	// look at.
	sections, changedSections map[SectionKey]*section
	// total is how many members there are of all that a policy names, with the policies'
	// ranges of addresses and ports.
	total int
}

// labelIndex is a label that all pods of a selector have, with the one
// namespace it looks in; either is empty where there is none.
type labelIndex struct{ namespace, label string }

// peers is a selector in use.
type peers struct {
	Selector
	// matchers are those of its alternatives, once it is prepared: to read thousands of
	// selectors takes long, and one that is not handed out yet is asked about no pod.
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

// asks are labels, or keys of labels, of which every pod that the selector means has one
// (see matcher.asks); nil: there are none to go by.
func (g *peers) asks() (asked []string) {
	for _, m := range g.matchers {
		one := m.asks()
		if one == "" {
			return nil
		}
		asked = append(asked, one)
	}
	return asked
}

// tracked is a set of members in use.
type tracked[T comparable] struct {
	// users are the policies that name it, as they are and as they were handed out;
	// by counts the former, by namespace.
	users int
	by    map[*namespace]int
	// fresh: not handed out yet. All its members will be, so none is noted.
	fresh bool
	// staged: it is handed out bit by bit, as no policy that was handed out names it.
	staged bool
	// size is how many members there are, once it is not fresh. The total has it in if
	// a policy names it.
	size  int
	total *int
	// rest are members of a staged set that wait to be handed out for the first time, and
	// searched is how often one was looked for.
	rest     []T
	searched int
	// changed are other members that differ from what was handed out: now in
	// (true), or out. leaving is how many are out.
	changed map[T]bool
	leaving int
}

// ready reports whether all its members have been handed out, but for changes.
func (t *tracked[T]) ready() bool { return !t.fresh && !t.staged }

// grow takes down how many members there are now.
func (t *tracked[T]) grow(by int) {
	t.size += by
	if len(t.by) > 0 {
		*t.total += by
	}
	for ns := range t.by {
		ns.elements += by
	}
}

// use adds by to the number of users, and to that of the namespace's. A nil namespace stands for
// what was last handed out.
func (t *tracked[T]) use(ns *namespace, by int) {
	t.users += by
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
		named:        map[NamedPort]*tracked[Endpoint]{},
		changedPeers: map[*peers]struct{}{},
		changedNamed: map[NamedPort]*tracked[Endpoint]{},
		sections:     map[SectionKey]*section{}, changedSections: map[SectionKey]*section{},
	}
}

// note takes down that a member came in or went out. What comes and goes
// between two hand-outs leaves nothing.
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

// mostSearches is how often a member is looked for one after another in the rest of a set:
// all pods of a namespace may leave it at once.
const mostSearches = 16

// forget forgets a member that waits to be handed out, and reports whether it did.
func (t *tracked[T]) forget(member T) bool {
	if t.searched++; t.searched > mostSearches && len(t.rest) > 0 {
		if t.changed == nil {
			t.changed = make(map[T]bool, len(t.rest))
		}
		for _, one := range t.rest {
			t.changed[one] = true
		}
		t.rest = nil
	}
	at := slices.Index(t.rest, member)
	if at >= 0 {
		t.rest[at] = t.rest[len(t.rest)-1]
		t.rest = t.rest[:len(t.rest)-1]
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

// use changes by how many policies the members are used that a policy's rules name: by is 1 if
// the policy begins to use them, and -1 if it ends to. ns is the policy's namespace; nil stands
// for the policies as they were last handed out. Members that nobody uses any more are dropped by
// the next Take and not before, because somebody may begin to use them again until then.
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
				if g.use(ns, by); g.fresh || g.users == 0 {
					ms.changedPeers[g] = struct{}{}
				}
			}
			for _, name := range rule.NamedPorts {
				t := ms.named[name]
				if t == nil {
					t = &tracked[Endpoint]{fresh: true, total: &ms.total}
					ms.named[name] = t
				}
				if t.use(ns, by); t.fresh || t.users == 0 {
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

// indices are where a pod is looked for that one of the alternatives may mean.
func (g *peers) indices() (at []labelIndex) {
	for _, m := range g.matchers {
		at = append(at, labelIndex{namespace: g.Namespace, label: m.required()})
	}
	return at
}

// follow has what changes about pods be noted of a selector that is about to be handed out.
func (ms *members) follow(g *peers) {
	for _, at := range g.indices() {
		if ms.byLabel[at] == nil {
			ms.byLabel[at] = map[*peers]struct{}{}
		}
		ms.byLabel[at][g] = struct{}{}
	}
}

func (ms *members) drop(g *peers) {
	delete(ms.peers, g.Selector)
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

// take turns what was noted into a change and forgets it, but for what is more than a
// stage has room for. It takes either what has left or what has come. What all returns is
// not kept.
func (t *tracked[T]) take(leaving bool, all func() []T, compare func(a, b T) int, room *stage) (change Members[T]) {
	if t.fresh {
		change.New = true
		t.fresh, t.staged = false, true
		all := all()
		t.grow(len(all))
		some := room.take(len(all))
		change.Add, t.rest = slices.Clone(all[:some]), slices.Clone(all[some:])
		slices.SortFunc(change.Add, compare)
	} else {
		change = t.takeChanged(leaving, room)
		slices.SortFunc(change.Add, compare)
		slices.SortFunc(change.Remove, compare)
	}
	if len(t.changed)+len(t.rest) == 0 {
		t.staged, t.changed, t.rest = false, nil, nil
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

// takeChanged takes members that have come, or those that have left, as many as there is
// room for.
func (t *tracked[T]) takeChanged(leaving bool, room *stage) (change Members[T]) {
	some := len(t.changed) - t.leaving + len(t.rest)
	if leaving {
		some = t.leaving
	}
	if t.staged {
		some = room.take(some)
	} else {
		some = room.takeMet(some)
	}
	if !leaving {
		first := max(len(t.rest)-some, 0)
		change.Add, t.rest = slices.Clone(t.rest[first:]), t.rest[:first]
	}
	for member, in := range t.changed {
		if len(change.Add)+len(change.Remove) == some {
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
