package nft

import (
	"iter"
	"strings"
)

// SetType is the type of a set's elements: the datatypes of the parts that each element is a
// concatenation of, and whether each is a range. It is a value, and comparable. The zero SetType is
// not the type of any set.
type SetType struct {
	// parts are the datatypes, up to the first that is zero.
	parts [maxParts]Datatype
	// seconds has a bit for each part that has the same datatype as a part before it.
	seconds  uint8
	interval bool
	// keyLen is the length of a key in the kernel, in bytes.
	keyLen uint8
}

// maxParts is how many datatypes an element has at most.
const maxParts = 4

// Of is the type of sets whose elements are concatenations of these datatypes, or of a single
// datatype. Where the same datatype comes twice, the second part is the element's second value.
func Of(parts ...Datatype) SetType {
	var t SetType
	if len(parts) > maxParts {
		panic("too many datatypes for an element")
	}
	for i, part := range parts {
		width := part.Width()
		if len(parts) > 1 {
			width = (width + 3) &^ 3 // in a concatenation each part takes whole registers of 4 bytes
		}
		for _, before := range parts[:i] {
			if before == part {
				t.seconds |= 1 << i
			}
		}
		t.parts[i] = part
		t.keyLen += uint8(width)
	}
	return t
}

// RangesOf is the type of sets whose elements are ranges of the elements that Of describes.
func RangesOf(parts ...Datatype) SetType {
	t := Of(parts...)
	t.interval = true
	return t
}

// Known reports whether it is the type of any set.
func (t SetType) Known() bool { return t.parts[0] != 0 }

// Interval reports whether the elements are ranges: flags interval.
func (t SetType) Interval() bool { return t.interval }

// Concatenated reports whether the elements have more than one datatype.
func (t SetType) Concatenated() bool { return t.parts[1] != 0 }

// KeyLen is the length of a key in the kernel, in bytes.
func (t SetType) KeyLen() int { return int(t.keyLen) }

// Datatypes are those of an element's parts.
func (t SetType) Datatypes() iter.Seq[Datatype] {
	return func(yield func(Datatype) bool) {
		for _, part := range t.parts {
			if part == 0 || !yield(part) {
				return
			}
		}
	}
}

// String is the type as nft writes it, without the flag.
func (t SetType) String() string {
	var names []string
	for part := range t.Datatypes() {
		names = append(names, part.String())
	}
	return strings.Join(names, " . ")
}

// AppendKey appends an element's key as the kernel has it. For a range, that is where it begins.
func (t SetType) AppendKey(key []byte, e *Element) []byte { return t.appendParts(key, e, t.seconds) }

// AppendLast appends the last key of a range, as the kernel has it.
func (t SetType) AppendLast(key []byte, e *Element) []byte {
	return t.appendParts(key, e, 1<<maxParts-1)
}

// ParseAddrs reads an element back from its key. It is not known if the type has other parts than one or two addresses of a
// family, or the key another length.
func (t SetType) ParseAddrs(key []byte) (e Element, known bool) {
	if len(key) != t.KeyLen() {
		return e, false
	}
	for i, into := range [][]byte{e.Addr[:], e.LastAddr[:]} {
		switch t.parts[i] {
		case IPv4Addr, IPv6Addr:
			key = key[copy(into, key[:t.parts[i].Width()]):]
		case 0:
		default:
			return Element{}, false
		}
	}
	return e, len(key) == 0
}

// appendParts appends an element's parts: the second value of those that have a bit in seconds, and
// the first value of the others.
func (t SetType) appendParts(key []byte, e *Element, seconds uint8) []byte {
	for i, part := range t.parts {
		if part == 0 {
			break
		}
		d := &descriptions[part]
		key = d.appendTo(key, e, seconds>>i&1 != 0)
		if t.Concatenated() {
			key = append(key, padding[:-d.width&3]...)
		}
	}
	return key
}

var padding [3]byte

// Text is an element as nft writes it.
func (t SetType) Text(e Element) string {
	var texts []string
	for i, part := range t.parts {
		if part == 0 {
			break
		}
		d := &descriptions[part]
		switch {
		case !t.interval:
			texts = append(texts, d.text(e, t.seconds>>i&1 != 0))
		case d.rangeText != nil:
			texts = append(texts, d.rangeText(e))
		default:
			texts = append(texts, d.fromTo(e))
		}
	}
	return strings.Join(texts, " . ")
}
