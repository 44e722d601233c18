package nft

import (
	"cmp"
	"slices"
)

// Set is a named set, or a verdict map.
type Set struct {
	Name    string
	Type    SetType
	Comment string
	// Life is how long it is in the table.
	Life Life
	// Elements are the set's. Nil for a map.
	Elements map[Element]struct{}
	// ordered are the elements in order, where they are ranges: to find the one
	// that has a key without asking all.
	ordered []Element
	// Verdicts are the map's. Nil for a set.
	Verdicts map[Element]Verdict
	// Dynamic: the kernel puts the elements in, for a Limit, Connections or Noted. Elements
	// are not known.
	Dynamic bool
	// Timeout is after how many seconds the kernel takes one out of a dynamic set that no
	// packet has put in again. Zero: when it has no connections any more.
	Timeout uint32
}

// Life says how long a set is in its table.
type Life uint8

// The lives.
const (
	// Static is as long as the table.
	Static Life = iota
	// ByContent is of a set that is named by its content, which never changes: it goes with
	// the last rule that looks it up.
	ByContent
	// ByMeaning is of a set that is named by what its members have in common: it goes when
	// who knows the members says so.
	ByMeaning
)

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

// contains reports whether a set has a key, or an interval that has it.
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
	_, in := s.Elements[key]
	return in
}

// begins reports whether a range begins at the key or before it, ends whether it
// ends at the key or after it, of the same protocol.
func begins(e, key Element) bool {
	return cmp.Or(slices.Compare(e.Addr[:], key.Addr[:]), cmp.Compare(e.Protocol, key.Protocol), cmp.Compare(e.First, key.First)) <= 0
}

func ends(e, key Element) bool {
	return e.Protocol == key.Protocol && slices.Compare(e.LastAddr[:], key.Addr[:]) >= 0 && e.Last >= key.First
}
