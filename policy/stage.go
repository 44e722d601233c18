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
	// looksPerElement is how many pods can be asked whether a selector means them while
	// the kernel takes an element.
	looksPerElement = 20
)

// stage is how much room is left in what is handed out at once, in elements.
type stage struct{ room int }

// unlimited is the room for all there is.
const unlimited = math.MaxInt

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

// waiting is a set that is to be handed out, and with how many others of the namespace that
// has the fewest.
type waiting[T any] struct {
	set    T
	others int
}

// inTurn are sets that have changed, as they are to be looked at: first those that packets
// meet, then those of the namespaces that have the fewest, so that whoever has few need
// not wait for who has many.
func inTurn[T any](sets []T, ready func(T) bool, by func(T) map[*namespace]int) []T {
	pending := map[*namespace]int{}
	for _, set := range sets {
		if !ready(set) {
			for ns := range by(set) {
				pending[ns]++
			}
		}
	}
	turns := make([]waiting[T], len(sets))
	for i, set := range sets {
		turns[i].set = set
		if ready(set) {
			continue
		}
		turns[i].others = math.MaxInt
		for ns := range by(set) {
			turns[i].others = min(turns[i].others, pending[ns])
		}
	}
	slices.SortStableFunc(turns, func(a, b waiting[T]) int { return cmp.Compare(a.others, b.others) })
	ordered := make([]T, len(sets))
	for i, turn := range turns {
		ordered[i] = turn.set
	}
	return ordered
}

// Staging reports whether something of a namespace's policies waits to be handed out; of
// any namespace's, if it is empty.
func (m *Model) Staging(namespace string) bool {
	if namespace == "" {
		return len(m.dirtyPolicies) > 0
	}
	for key := range m.dirtyPolicies {
		if key.Namespace == namespace {
			return true
		}
	}
	return false
}
