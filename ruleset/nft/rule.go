package nft

import "slices"

// Rule is one rule: if every match holds, the packet is counted and logged, and the verdict is reached.
// The nft text has the same order.
type Rule struct {
	Matches []Match
	// Counter counts packets and bytes that reach the verdict.
	Counter bool
	// Log tells packets to an nflog group before the verdict, unless it is the zero Log.
	Log     Log
	Verdict Verdict
	// Origin is what the rule is for. It is nil where nobody asks for that.
	Origin Origin
}

// Log is which nflog group is told of packets, and what is said with each: "log prefix P group N snaplen L".
type Log struct {
	Group  uint16
	Prefix string
	// Whole: packets are told whole, and not only their first LogSnaplen octets.
	Whole bool
}

// LogSnaplen is how many octets of a packet are told of it: an IPv6 header with the extension headers that
// packets usually have, and a TCP header.
const LogSnaplen = 128

// Origin is what a rule is for, as a value. Metrics, the log and explanations read it, and nft shows
// its comment. Its type must be comparable, because rules are compared by it, too.
type Origin interface {
	// Comment is what nft shows of it, with at most MaxComment bytes. If it is empty, nft shows
	// nothing.
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

// SameRules reports whether rules are the same, including their origins. It compares what reflection
// would compare, without the memory that reflection takes.
func SameRules(a, b []Rule) bool {
	return slices.EqualFunc(a, b, func(a, b Rule) bool {
		return a.Verdict == b.Verdict && a.Counter == b.Counter && a.Log == b.Log && a.Origin == b.Origin && slices.EqualFunc(a.Matches, b.Matches, sameMatch)
	})
}

// sameMatch reports whether two matches are the same. Lookup and Noted are the only types of match that
// == cannot compare.
func sameMatch(a, b Match) bool {
	switch a := a.(type) {
	case Lookup:
		b, is := b.(Lookup)
		return is && a.Set == b.Set && a.Not == b.Not && slices.Equal(a.Fields, b.Fields)
	case Noted:
		b, is := b.(Noted)
		return is && a.Set == b.Set && a.Count == b.Count && a.Renew == b.Renew && slices.Equal(a.Fields, b.Fields)
	}
	return a == b
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
	// Number is that of Queue's nfqueue.
	Number uint16
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
	Accept     Action = iota // ends this base chain, but not the others of the hook
	Drop                     // final: no other chain sees the packet
	Reject                   // final, with an ICMP error: icmpx admin-prohibited
	Jump                     // to Chain; goes on here if that comes to no verdict
	Dispatch                 // to the verdict that Map has for Field; goes on if it has none
	Return                   // back to the rule after the jump
	Masquerade               // accept, with the outgoing link's address as the source
	// Queue holds the packet until whoever reads the nfqueue Number says what becomes of it. Where nobody reads the
	// queue, it is as Accept (flags bypass).
	Queue
)
