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
	// byLabel finds the peers that may mean a pod without asking them all.
	byLabel map[labelIndex]map[*peers]struct{}
	named   map[NamedPort]*tracked[Endpoint]
	// changed are those that Take has to look at.
	changedPeers map[*peers]struct{}
	changedNamed map[NamedPort]*tracked[Endpoint]
	// total is how many members there are of all that a policy names, with the policies'
	// ranges of addresses and ports.
	total int
}

// labelIndex is a label that all pods of a selector have, with the one
// namespace it looks in; either is empty where there is none.
type labelIndex struct{ namespace, label string }

// peers is a selector in use.
type peers struct {
	matcher
	tracked[netip.Addr]
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
	// changed are the members that differ from what was handed out: now in
	// (true), or out.
	changed map[T]bool
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

// use adds by users of a namespace; nil: those of what was handed out.
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
	switch was, noted := t.changed[member]; {
	case t.fresh:
	case noted && was != in:
		delete(t.changed, member)
	default:
		if t.changed == nil {
			t.changed = map[T]bool{}
		}
		t.changed[member] = in
	}
}

// use adds by users of a namespace to everything that a policy's rules name; nil: those
// of what was handed out. What has no user left is dropped by the next Take, not before:
// it may get one again.
func (ms *members) use(ns *namespace, p *Policy, by int) {
	for _, d := range Directions {
		for _, rule := range p.Rules[d] {
			for _, s := range rule.Peers {
				g := ms.peers[s]
				if g == nil {
					g = &peers{matcher: matcherOf(s), tracked: tracked[netip.Addr]{fresh: true, total: &ms.total}}
					ms.peers[s] = g
					at := g.index()
					if ms.byLabel[at] == nil {
						ms.byLabel[at] = map[*peers]struct{}{}
					}
					ms.byLabel[at][g] = struct{}{}
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

func (g *peers) index() labelIndex {
	return labelIndex{namespace: g.Namespace, label: g.required()}
}

func (ms *members) drop(g *peers) {
	delete(ms.peers, g.Selector)
	at := g.index()
	if delete(ms.byLabel[at], g); len(ms.byLabel[at]) == 0 {
		delete(ms.byLabel, at)
	}
}

func (ms *members) toggle(g *peers, ip netip.Addr, in bool) {
	g.note(ip, in)
	ms.changedPeers[g] = struct{}{}
}

// take turns what was noted into a change and forgets it, but for what is more than a
// stage has room for.
func (t *tracked[T]) take(all func() []T, compare func(a, b T) int, room *stage) (change Members[T], changed bool) {
	if t.users == 0 {
		return Members[T]{Gone: true}, !t.fresh
	}
	if t.fresh {
		change.New, changed = true, true
		t.fresh, t.staged = false, true
		change.Add = all()
		t.grow(len(change.Add))
		if some := room.take(len(change.Add)); some < len(change.Add) {
			t.changed = make(map[T]bool, len(change.Add)-some)
			for _, member := range change.Add[some:] {
				t.changed[member] = true
			}
			change.Add = change.Add[:some]
		}
		slices.SortFunc(change.Add, compare)
	} else {
		some := len(t.changed)
		if t.staged {
			some = room.take(some)
		}
		for member, in := range t.changed {
			switch {
			case !in:
				change.Remove = append(change.Remove, member)
			default:
				change.Add = append(change.Add, member)
			}
			delete(t.changed, member)
			if len(change.Add)+len(change.Remove) == some {
				break
			}
		}
		changed = len(change.Add)+len(change.Remove) > 0
		slices.SortFunc(change.Add, compare)
		slices.SortFunc(change.Remove, compare)
	}
	if len(t.changed) == 0 {
		t.staged, t.changed = false, nil
	}
	return change, changed
}
