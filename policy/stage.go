package policy

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
)

// A policy may name selectors and port names that nobody else names, with very many
// members. They are handed out bit by bit, before the policy that names them, so that
// what takes the kernel long keeps nobody else's changes waiting: as long as no policy in
// the kernel names a set, no packet meets it. Until all are handed out the policy stays
// as it was, or closed if it is new.

const (
	// stageSize is how much is handed out at once of what can wait, in elements; the
	// kernel takes some 1 ms for it. What takes longer than a time slice of a processor that
	// others want (2.8 ms) takes as many slices of theirs besides: the kernel lets others go
	// first wherever it validates or inserts (cond_resched).
	stageSize = 300
	// setCost is how many elements take as much as a set does.
	setCost = 40
	// ruleCost is how many elements take as much as a rule does, and contentCost as much as a
	// set that is named by its content: the kernel finds each set by asking one after the other
	// for its name, and there may be thousands (nft_set_lookup in net/netfilter/nf_tables_api.c).
	ruleCost, contentCost = 20, 20
	// stageMet is how much is handed out at once of changes to sets that packets meet, in
	// elements, and updateCost how many elements take as much as a set does of which some
	// change.
	stageMet, updateCost = 500, 10
	// stageRules and stageGone are how many rules of policies change at once, and how many
	// sets go.
	stageRules, stageGone = sectionWeight / ruleCost, 25
	// stageJumps is how many jumps to policies change at once, and jumpCost how many elements
	// take as much as one does.
	stageJumps, jumpCost = 100, 3
	// looksPerElement is how many pods can be asked whether a selector means them while
	// the kernel takes an element.
	looksPerElement = 20
)

// stage is what is handed out at once.
type stage struct {
	// room is how much of it is left, in elements, of what can wait; met the same of
	// changes to sets that packets meet.
	room, met int
	// rules and jumps are how many rules of policies may still change, and jumps to policies;
	// gone how many sets may go.
	rules, jumps, gone int
	// byLabel are pods by what selectors ask for, where very many selectors have to be
	// looked at (see Model.podsByLabel); nil: they are looked for among all.
	byLabel map[string][]*Pod
}

// unlimited is the room for all there is.
const unlimited = math.MaxInt

// newStage has room for so many elements.
func newStage(room int) *stage {
	return &stage{room: room, met: stageMet, rules: stageRules, jumps: stageJumps, gone: stageGone}
}

// wholeStage has room for all there is.
func (m *Model) wholeStage() *stage {
	return &stage{room: unlimited, met: unlimited, rules: unlimited, jumps: unlimited, gone: unlimited, byLabel: m.podsByLabel()}
}

// hasRules reports whether there is room for a policy's rules, which come all at once.
func (s *stage) hasRules(n int) bool { return n <= max(s.rules, 0) || s.rules >= stageRules }

// take takes up to n elements of the room, and returns how many. The last set may take
// somewhat more than there was: each stage must come to something.
func (s *stage) take(n int) int {
	n = min(n, max(s.room, 1))
	s.room -= n
	return n
}

// takeMet takes the room of up to n elements that change of a set that packets meet, and
// returns how many.
func (s *stage) takeMet(n int) int {
	n = min(n, max(s.met, 1))
	s.met -= n + updateCost
	return n
}

// set takes the room of a set whose members are found among so many pods.
func (s *stage) set(pods int) { s.room -= setCost + pods/looksPerElement }

// full reports whether there is no room for a set, which packets meet or not.
func (s *stage) full(met bool) bool { return met && s.met <= 0 || !met && s.room <= 0 }

// left is what is left of both rooms.
func (s *stage) left() int { return s.room + s.met }

// limited reports whether there may be more than is handed out at once.
func (s *stage) limited() bool { return s.byLabel == nil }

// turn is a set or a section that has changed, to be looked at in turn.
type turn struct {
	// ready: packets meet it.
	ready bool
	kind  turnKind
	by    map[*namespace]int
	take  func()
	// at is how much the namespace that it belongs to has had, and others how many sets of
	// that wait; of several namespaces', what puts it first.
	at, others int
}

// turnKind is the order of one namespace's turns. What has left its sets goes first: in
// between less is allowed, not more. Sections name sets.
type turnKind int

const (
	turnLeft turnKind = iota
	turnCome
	turnSection
)

// turns are the sets and sections that have changed, as they are to be looked at: those
// first of the namespaces that have had the least. One that has not waited counts as having
// had as much as the last one served, so that nobody can keep others waiting by changing
// policies over and over (start-time fair queueing; Goyal, Vin and Cheng, SIGCOMM 1996). Of
// equals those come first that have the fewest: who has few need not wait for who has many.
func (m *Model) turns(d *Delta, room *stage) (turns []turn) {
	for g := range m.changedPeers {
		for _, kind := range g.turns() {
			turns = append(turns, turn{ready: g.ready(), kind: kind, by: g.by, take: func() { m.takePeers(g, kind == turnLeft, d, room) }})
		}
	}
	for name, t := range m.changedNamed {
		for _, kind := range t.turns() {
			turns = append(turns, turn{ready: t.ready(), kind: kind, by: t.by, take: func() { m.takeNamed(name, t, kind == turnLeft, d, room) }})
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

// turns are those that a set needs.
func (t *tracked[T]) turns() (kinds []turnKind) {
	if !t.fresh && t.leaving > 0 {
		kinds = append(kinds, turnLeft)
	}
	if t.fresh || t.leaving < len(t.changed) || len(t.changed) == 0 || len(t.rest) > 0 {
		kinds = append(kinds, turnCome)
	}
	return kinds
}

// wait works out a place.
func (t *turn) wait(pending map[*namespace]int) {
	t.at, t.others = math.MaxInt, math.MaxInt
	for ns := range t.by {
		if cmp.Or(cmp.Compare(ns.turn, t.at), cmp.Compare(pending[ns], t.others)) < 0 {
			t.at, t.others = ns.turn, pending[ns]
		}
	}
}

// Staging reports whether something waits to be handed out.
func (m *Model) Staging() bool {
	return m.left || len(m.dirtySubjects)+len(m.dirtyPolicies)+len(m.changedPeers)+len(m.changedNamed) > 0
}

// StagingOf reports whether something waits to be handed out that packets of a namespace's
// pods meet, or that one of the addresses is still a peer or an endpoint that it is not any
// more.
func (m *Model) StagingOf(name string, addrs []netip.Addr) bool {
	for key := range m.dirtyPolicies {
		if key.Namespace == name {
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
		if g.by[ns] > 0 {
			return true
		}
		for _, addr := range addrs {
			if in, noted := g.changed[addr]; noted && !in {
				return true
			}
		}
	}
	for _, t := range m.changedNamed {
		if t.by[ns] > 0 {
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
