package policy

import (
	"cmp"
	"iter"
	"math"
	"net/netip"
	"slices"
)

// A policy may name selectors and port names that no other policy names, with very many
// members. These are handed out bit by bit, before the policy that names them, so that what
// takes the kernel long keeps nobody else's changes waiting. This is safe because no packet
// meets a set while no policy in the kernel names it. Until all members are handed out, the
// policy stays as it was, or closed if it is new.

const (
	// portionSize is how much is handed out at once of what can wait, in elements. The kernel
	// takes some 1 ms for it. If it took longer than a time slice (2.8 ms) of a processor that
	// others want, it would wait for as many slices of theirs besides, because the kernel lets
	// others go first wherever it validates or inserts (cond_resched).
	portionSize = 300
	// setCost is how many elements take the kernel as long as a set.
	setCost = 40
	// ruleCost is how many elements take the kernel as long as a rule, and contentCost how many
	// take as long as a set that is named by its content: the kernel finds each set by asking one
	// after the other for its name, and there may be thousands (nft_set_lookup in
	// net/netfilter/nf_tables_api.c).
	ruleCost, contentCost = 20, 20
	// portionMet is how much is handed out at once of changes to sets that packets meet, in
	// elements. updateCost is how many elements take as long as one more set in which members
	// change.
	portionMet, updateCost = 500, 10
	// portionRules is how many rules of policies change at once, and portionRemovals how many sets
	// are removed at once.
	portionRules, portionRemovals = sectionWeight / ruleCost, 25
	// portionJumps is how many jumps to policies change at once, and jumpCost how many elements
	// take as long as one jump.
	portionJumps, jumpCost = 100, 3
	// looksPerElement is how many pods can be asked whether a selector means them in the time
	// that the kernel takes for an element.
	looksPerElement = 20
)

// portion is the room that remains for what is handed out at once.
type portion struct {
	// room is for what can wait, in elements; met is for changes to sets that packets meet, in
	// elements too.
	room, met int
	// rules and jumps are how many rules of policies, and how many jumps to policies, may still
	// change. removals is how many sets may still be removed.
	rules, jumps, removals int
	// byLabel has the pods by the labels that selectors ask for, where very many selectors have
	// to be looked at (see Model.podsByLabel). If it is nil, pods are looked for among all.
	byLabel map[string][]*Pod
}

// unlimited is room for everything.
const unlimited = math.MaxInt

// newPortion returns a portion with room for so many elements that can wait, and with the usual room
// for everything else.
func newPortion(room int) *portion {
	return &portion{room: room, met: portionMet, rules: portionRules, jumps: portionJumps, removals: portionRemovals}
}

// wholePortion returns a portion with room for everything.
func (m *Model) wholePortion() *portion {
	return &portion{room: unlimited, met: unlimited, rules: unlimited, jumps: unlimited, removals: unlimited, byLabel: m.podsByLabel()}
}

// hasRules reports whether there is room for a policy's rules, which come all at once.
func (p *portion) hasRules(n int) bool { return n <= max(p.rules, 0) || p.rules >= portionRules }

// take takes the room of up to n elements, and returns of how many. It takes at least one, even
// if no room remains, because each portion must hand out something.
func (p *portion) take(n int) int {
	n = min(n, max(p.room, 1))
	p.room -= n
	return n
}

// takeMet takes the room of up to n elements that change in a set that packets meet, and
// returns of how many.
func (p *portion) takeMet(n int) int {
	n = min(n, max(p.met, 1))
	p.met -= n + updateCost
	return n
}

// set takes the room of a set whose members are found among so many pods.
func (p *portion) set(pods int) { p.room -= setCost + pods/looksPerElement }

// full reports whether there is no room for a set. met says whether packets meet the set.
func (p *portion) full(met bool) bool { return met && p.met <= 0 || !met && p.room <= 0 }

// remaining is what remains of room and met together.
func (p *portion) remaining() int { return p.room + p.met }

// limited reports whether there may be more than can be handed out at once.
func (p *portion) limited() bool { return p.byLabel == nil }

// turn is a set or a section that has changed, to be looked at in turn.
type turn struct {
	// ready: packets meet it.
	ready bool
	kind  turnKind
	by    map[*namespace]int
	take  func()
	// at is the turn of the namespace that it belongs to, and others how many sets of that
	// namespace wait. If it belongs to several namespaces, these are of the one that puts it
	// first.
	at, others int
}

// turnKind is the order of one namespace's turns. What allows less goes first, so that in between
// less is allowed, not more: that members have left its sets, or for sets by which something is denied
// that members have come. Sections go last, because they name sets.
type turnKind int

const (
	turnClosing turnKind = iota
	turnOpening
	turnSection
)

// turns are the sets and sections that have changed, in the order in which they are to be looked
// at. Those of the namespaces for which the least was handed out come first. A namespace that
// had nothing waiting counts as if as much was handed out for it as for the one served last, so
// that nobody can keep others waiting by changing policies over and over (start-time fair
// queueing; Goyal, Vin and Cheng, SIGCOMM 1996). Of equal namespaces the one with the fewest
// sets and sections comes first: who has few need not wait for who has many.
func (m *Model) turns(d *Delta, room *portion) (turns []turn) {
	for g := range m.changedPeers {
		for leaving, kind := range g.turns() {
			turns = append(turns, turn{ready: g.ready(), kind: kind, by: g.by, take: func() { m.takePeers(g, leaving, d, room) }})
		}
	}
	for name, t := range m.changedNamed {
		for leaving, kind := range t.turns() {
			turns = append(turns, turn{ready: t.ready(), kind: kind, by: t.by, take: func() { m.takeNamed(name, t, leaving, d, room) }})
		}
	}
	for key, s := range m.changedSections {
		if ns := m.namespaces[key.Policy.Namespace]; ns != nil && s.users > 0 {
			turns = append(turns, turn{kind: turnSection, by: map[*namespace]int{ns: 1}, take: func() { m.takeSection(key, s, d, room) }})
		}
	}
	pending := map[*namespace]int{}
	for key := range m.dirtyPolicies {
		if ns := m.namespaces[key.Namespace]; ns != nil {
			pending[ns] = 0
		}
	}
	for key := range m.dirtySubjects {
		if ns := m.namespaces[key.Namespace]; ns != nil {
			pending[ns] = 0
		}
	}
	for _, t := range turns {
		for ns := range t.by {
			pending[ns]++
		}
	}
	first := math.MaxInt
	for ns := range pending {
		ns.turn = max(ns.turn, m.turn)
		first = min(first, ns.turn)
	}
	if len(pending) > 0 {
		m.turn = first
	}
	for i := range turns {
		turns[i].wait(pending)
	}
	slices.SortStableFunc(turns, func(a, b turn) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.kind, b.kind), cmp.Compare(a.others, b.others))
	})
	return turns
}

// turns are the turns that a set needs: whether it is one for members that have left, or for those
// that have come, and its kind.
func (t *tracked[T]) turns() iter.Seq2[bool, turnKind] {
	leaving, coming := turnClosing, turnOpening
	if t.closing > 0 {
		leaving, coming = turnOpening, turnClosing
	}
	return func(yield func(bool, turnKind) bool) {
		if !t.fresh && t.leaving > 0 && !yield(true, leaving) {
			return
		}
		if t.fresh || t.leaving < len(t.changed) || len(t.changed) == 0 || len(t.waiting) > 0 {
			yield(false, coming)
		}
	}
}

// wait works out at and others, the turn's place in the order.
func (t *turn) wait(pending map[*namespace]int) {
	t.at, t.others = math.MaxInt, math.MaxInt
	for ns := range t.by {
		if cmp.Or(cmp.Compare(ns.turn, t.at), cmp.Compare(pending[ns], t.others)) < 0 {
			t.at, t.others = ns.turn, pending[ns]
		}
	}
}

// Pending reports whether something waits to be handed out.
func (m *Model) Pending() bool {
	return m.removalsPending || len(m.dirtySubjects)+len(m.dirtyPolicies)+len(m.changedPeers)+len(m.changedNamed) > 0
}

// PendingOf reports whether something waits to be handed out that packets of a namespace's pods
// meet. It also reports true as long as what was handed out has one of the addresses as a peer
// or an endpoint that it is not any more.
func (m *Model) PendingOf(name string, addrs []netip.Addr) bool {
	for key := range m.dirtyPolicies {
		if key.Namespace == name || key.Namespace == "" {
			return true
		}
	}
	for key := range m.dirtySubjects {
		if key.Namespace == name {
			return true
		}
	}
	ns := m.namespaces[name]
	for g := range m.changedPeers {
		if g.by[ns] > 0 || g.by[m.namespaces[""]] > 0 {
			return true
		}
		for _, addr := range addrs {
			if in, noted := g.changed[addr]; noted && !in {
				return true
			}
		}
	}
	for _, t := range m.changedNamed {
		if t.by[ns] > 0 || t.by[m.namespaces[""]] > 0 {
			return true
		}
		for endpoint, in := range t.changed {
			if !in && slices.Contains(addrs, endpoint.Addr) {
				return true
			}
		}
	}
	return false
}
