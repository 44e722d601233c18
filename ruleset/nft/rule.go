package nft

import "slices"

// Rule is one rule: every match must hold, then the packet is counted and the
// verdict reached. The nft text has the same order.
type Rule struct {
	Matches []Match
	// Counter counts packets and bytes that reach the verdict.
	Counter bool
	Verdict Verdict
	// Origin is what the rule is there for; nil: nobody asks.
	Origin Origin
}

// Origin is what a rule is there for, as a value: metrics, the log and explanations read it,
// and nft shows its comment. Its type is comparable: rules are compared by it, too.
type Origin interface {
	// Comment is what nft shows of it, of at most MaxComment bytes. Empty: nothing.
	Comment() string
}

// Sentence is the origin of a rule that needs no more than words.
type Sentence string

// Comment is the sentence.
func (s Sentence) Comment() string { return string(s) }

// Comment is what nft shows of the rule's origin.
func (r Rule) Comment() string {
	if r.Origin == nil {
		return ""
	}
	return r.Origin.Comment()
}

// SameRules reports whether rules are the same, with their origins. It does what reflection
// would, without its memory.
func SameRules(a, b []Rule) bool {
	return slices.EqualFunc(a, b, func(a, b Rule) bool {
		return a.Verdict == b.Verdict && a.Counter == b.Counter && a.Origin == b.Origin && slices.EqualFunc(a.Matches, b.Matches, sameMatch)
	})
}

// sameMatch reports whether two matches are the same. Of all types, Lookup alone cannot be
// compared as it is.
func sameMatch(a, b Match) bool {
	one, is := a.(Lookup)
	if !is {
		return a == b
	}
	other, is := b.(Lookup)
	return is && one.Set == other.Set && one.Not == other.Not && slices.Equal(one.Fields, other.Fields)
}

// LooksUp reports whether a match of the rule is a lookup in the set.
func (r Rule) LooksUp(set string) bool {
	for _, m := range r.Matches {
		if lookup, is := m.(Lookup); is && lookup.Set == set {
			return true
		}
	}
	return false
}

// Verdict is what becomes of a packet.
type Verdict struct {
	Action Action
	// Chain is Jump's target.
	Chain string
	// Map and Field are Dispatch's: field vmap @map.
	Map   string
	Field Field
}

// Action is the kind of a Verdict.
type Action uint8

// The actions.
const (
	Accept     Action = iota // ends this base chain, not the others of the hook
	Drop                     // final
	Reject                   // final, with an ICMP error: icmpx admin-prohibited
	Jump                     // to Chain, and on here if that comes to no verdict
	Dispatch                 // to the verdict that Map has for Field; on if it has none
	Return                   // back to the rule after the jump
	Masquerade               // accept, with the outgoing link's address as the source
)
