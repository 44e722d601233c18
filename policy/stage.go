package policy

import (
	"cmp"
	"math"
	"slices"
)

// A policy may name selectors and port names that nobody else names, with very many
// members. They are handed out bit by bit, before the policy that names them, so that
// what takes the kernel long keeps nobody else's changes waiting: as long as no policy in
// the kernel names a set, no packet meets it. Until all are handed out the policy stays
// as it was, or closed if it is new.

const (
	// stageSize is how much is handed out at once of what can wait, in elements; the
	// kernel takes some 5 ms for it.
	stageSize = 2000
	// setCost is how many elements take as much as a set does.
	setCost = 100
	// ruleCost is how many elements take as much as a rule does.
	ruleCost = 4
	// stageRules and stageGone are how many rules of policies change at once, and how many
	// sets go.
	stageRules, stageGone = 400, 200
	// looksPerElement is how many pods can be asked whether a selector means them while
	// the kernel takes an element.
	looksPerElement = 20
)

// stage is what is handed out at once.
type stage struct {
	// room is how much of it is left, in elements.
	room int
	// rules and gone are how many rules of policies may still change, and how many sets go.
	rules, gone int
	// byLabel are pods by what selectors ask for, where very many selectors have to be
	// looked at (see Model.podsByLabel); nil: they are looked for among all.
	byLabel map[string][]*Pod
}

// unlimited is the room for all there is.
const unlimited = math.MaxInt

// newStage has room for so many elements.
func newStage(room int) *stage { return &stage{room: room, rules: stageRules, gone: stageGone} }

// wholeStage has room for all there is.
func (m *Model) wholeStage() *stage {
	return &stage{room: unlimited, rules: unlimited, gone: unlimited, byLabel: m.podsByLabel()}
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

// set takes the room of a set whose members are found among so many pods.
func (s *stage) set(pods int) { s.room -= setCost + pods/looksPerElement }

func (s *stage) full() bool { return s.room <= 0 }

// limited reports whether there may be more than is handed out at once.
func (s *stage) limited() bool { return s.byLabel == nil }

// turn is a set that has changed, to be looked at in turn.
type turn struct {
	// ready: packets meet it, so it does not wait.
	ready bool
	by    map[*namespace]int
	take  func()
	// at is how much the namespace that it belongs to has had, and others how many sets of
	// that wait; of several namespaces', what puts it first.
	at, others int
}

// turns are the sets that have changed, as they are to be looked at: first those that
// packets meet, then those of the namespaces that have had the least. One that has not
// waited counts as having had as much as the last one served, so that nobody can keep
// others waiting by changing policies over and over (start-time fair queueing; Goyal, Vin
// and Cheng, SIGCOMM 1996). Of equals those come first that have the fewest: who has few
// need not wait for who has many.
func (m *Model) turns(d *Delta, room *stage) (turns []turn) {
	for g := range m.changedPeers {
		turns = append(turns, turn{ready: g.ready(), by: g.by, take: func() { m.takePeers(g, d, room) }})
	}
	for name, t := range m.changedNamed {
		turns = append(turns, turn{ready: t.ready(), by: t.by, take: func() { m.takeNamed(name, t, d, room) }})
	}
	pending := map[*namespace]int{}
	for key := range m.dirtyPolicies {
		if ns := m.namespaces[key.Namespace]; ns != nil {
			pending[ns] = 0
		}
	}
	for _, t := range turns {
		if !t.ready {
			for ns := range t.by {
				pending[ns]++
			}
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
	slices.SortStableFunc(turns, func(a, b turn) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.others, b.others)) })
	return turns
}

// wait works out a set's place. What is ready does not wait.
func (t *turn) wait(pending map[*namespace]int) {
	if t.ready {
		t.at = -1
		return
	}
	t.at, t.others = math.MaxInt, math.MaxInt
	for ns := range t.by {
		if cmp.Or(cmp.Compare(ns.turn, t.at), cmp.Compare(pending[ns], t.others)) < 0 {
			t.at, t.others = ns.turn, pending[ns]
		}
	}
}

// Staging reports whether something of a namespace's policies waits to be handed out; of
// any namespace's, if it is empty.
func (m *Model) Staging(namespace string) bool {
	if namespace == "" {
		return m.left || len(m.dirtyPolicies) > 0
	}
	for key := range m.dirtyPolicies {
		if key.Namespace == namespace {
			return true
		}
	}
	return false
}
