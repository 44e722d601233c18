package nft

import (
	"cmp"
	"slices"
	"time"
)

// Set is a named set, or a verdict map.
type Set struct {
	Name    string
	Type    SetType
	Comment string
	// Life is how long it is in the table.
	Life Life
	// Of is what the set is of, as a value, for those who keep its elements. It is nil where nobody asks.
	Of any
	// Elements are the elements of a set. It is nil for a map.
	Elements map[Element]struct{}
	// ordered are the elements in order, if they are ranges. By it the range that has a key is
	// found without looking at all.
	ordered []Element
	// Verdicts are the entries of a map. It is nil for a set.
	Verdicts map[Element]Verdict
	// Timed are the elements of a set whose elements have a time each; it is nil for all other sets, as Elements is for this
	// one. The kernel removes an element by itself when its time is over. Here it stays until somebody takes it out.
	Timed map[Element]Timed
	// Lapsed are elements that the set had until their time was over. The kernel does not have them; see TracePacket.Open.
	Lapsed map[Element]struct{}
	// Dynamic: the kernel puts the elements in, for a Limit, Connections or Noted. Elements does
	// not have them.
	Dynamic bool
	// Timeout is after how many seconds the kernel removes an element of a dynamic set that no
	// packet has put in again. If it is zero, an element stays, but that of a Connections until it
	// has no connections any more.
	Timeout uint32
}

// Timed is what an element of a timed set has besides its key.
type Timed struct {
	// Expires is when its time is over. The kernel knows it by the millisecond.
	Expires time.Time
	// Comment is what nft shows of it, with at most MaxComment bytes.
	Comment string
}

// Life says how long a set is in its table.
type Life uint8

// The lives.
const (
	// Static: the set is there as long as the table.
	Static Life = iota
	// ByContent: the set is named by its content, which never changes. It is removed with the last
	// rule that looks it up.
	ByContent
	// ByMeaning: the set is named by what its members have in common. It is removed when the code
	// that knows the members says so.
	ByMeaning
)

// maxLapsed is how many elements that have lapsed a set remembers at most.
const maxLapsed = 20_000

// Lapse notes that the time of an element is over. If there are too many, some are forgotten.
func (s *Set) Lapse(e Element) {
	if s.Lapsed == nil {
		s.Lapsed = map[Element]struct{}{}
	}
	for other := range s.Lapsed {
		if len(s.Lapsed) < maxLapsed {
			break
		}
		delete(s.Lapsed, other)
	}
	s.Lapsed[e] = struct{}{}
}

// IsMap reports whether the set is a verdict map.
func (s *Set) IsMap() bool { return s.Verdicts != nil }

// SetElements makes these the elements of a set.
func (s *Set) SetElements(elements map[Element]struct{}) {
	s.Elements = elements
	if s.Type.Interval() {
		s.ordered = SortedElements(elements)
	}
}

// Ordered are the elements of a set, in order.
func (s *Set) Ordered() []Element {
	if s.Type.Interval() {
		return s.ordered
	}
	return SortedElements(s.Elements)
}

// contains reports whether a set has a key, or an interval with the key in it.
func (s *Set) contains(key Element) bool {
	if s.Type.Interval() {
		// The last range that begins at the key or before it.
		after, _ := slices.BinarySearchFunc(s.ordered, key, func(e, key Element) int {
			if begins(e, key) {
				return -1
			}
			return 1
		})
		return after > 0 && ends(s.ordered[after-1], key)
	}
	if s.Timed != nil {
		_, in := s.Timed[key]
		return in
	}
	_, in := s.Elements[key]
	return in
}

// begins reports whether a range begins at the key or before it. ends reports whether the range is
// of the key's protocol and ends at the key or after it.
func begins(e, key Element) bool {
	return cmp.Or(slices.Compare(e.Addr[:], key.Addr[:]), cmp.Compare(e.Protocol, key.Protocol), cmp.Compare(e.First, key.First)) <= 0
}

func ends(e, key Element) bool {
	return e.Protocol == key.Protocol && slices.Compare(e.LastAddr[:], key.Addr[:]) >= 0 && e.Last >= key.First
}
