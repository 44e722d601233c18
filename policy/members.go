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
	users int
	// fresh: not handed out yet. All its members will be, so none is noted.
	fresh bool
	// changed are the members that differ from what was handed out: now in
	// (true), or out.
	changed map[T]bool
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

// use adds by users to everything that a policy's rules name. What has no user
// left is dropped by the next Take, not before: it may get one again.
func (ms *members) use(p *Policy, by int) {
	for _, d := range Directions {
		for _, rule := range p.Rules[d] {
			for _, s := range rule.Peers {
				g := ms.peers[s]
				if g == nil {
					g = &peers{matcher: matcherOf(s), tracked: tracked[netip.Addr]{fresh: true}}
					ms.peers[s] = g
					at := g.index()
					if ms.byLabel[at] == nil {
						ms.byLabel[at] = map[*peers]struct{}{}
					}
					ms.byLabel[at][g] = struct{}{}
				}
				g.users += by
				ms.changedPeers[g] = struct{}{}
			}
			for _, name := range rule.NamedPorts {
				t := ms.named[name]
				if t == nil {
					t = &tracked[Endpoint]{fresh: true}
					ms.named[name] = t
				}
				t.users += by
				ms.changedNamed[name] = t
			}
		}
	}
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

// take turns what was noted into a change and forgets it.
func (t *tracked[T]) take(all func() []T, compare func(a, b T) int) (change Members[T], changed bool) {
	switch {
	case t.users == 0:
		change, changed = Members[T]{Gone: true}, !t.fresh
	case t.fresh:
		change, changed = Members[T]{New: true, Add: all()}, true
	default:
		for member, in := range t.changed {
			if in {
				change.Add = append(change.Add, member)
			} else {
				change.Remove = append(change.Remove, member)
			}
		}
		changed = len(t.changed) > 0
	}
	t.fresh, t.changed = false, nil
	slices.SortFunc(change.Add, compare)
	slices.SortFunc(change.Remove, compare)
	return change, changed
}
