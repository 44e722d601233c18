package kernel

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"github.com/podfence/podfence/ruleset/nft"
)

// libraryTypes are the library's types for the datatypes. Package nft says everything else about
// a datatype.
var libraryTypes = map[nft.Datatype]nftables.SetDatatype{
	nft.IPv4Addr: nftables.TypeIPAddr, nft.IPv6Addr: nftables.TypeIP6Addr,
	nft.InetProto: nftables.TypeInetProto, nft.InetService: nftables.TypeInetService,
	nft.ICMPType: nftables.TypeICMPType, nft.ICMPv6Type: nftables.TypeICMP6Type,
	nft.EtherAddr: nftables.TypeEtherAddr, nft.EtherType: nftables.TypeEtherType,
	nft.IfName: nftables.TypeIFName,
}

// setKey sets the type of a set's keys to the library's type for t.
//
// The byte order that goes with it is only for nft, which reads elements by it.
// A concatenation has no byte order, because its fields have their own (the library
// claims big endian for one with ranges; nft takes no notice), and to nft neither has
// a protocol.
func setKey(set *nftables.Set, t nft.SetType) error {
	var parts []nftables.SetDatatype
	for datatype := range t.Datatypes() {
		part, known := libraryTypes[datatype]
		if !known {
			return fmt.Errorf("unknown datatype %d", datatype)
		}
		parts = append(parts, part)
		if set.KeyByteOrder = binaryutil.BigEndian; datatype.HostOrder() {
			set.KeyByteOrder = binaryutil.NativeEndian
		}
	}
	switch {
	case len(parts) == 0:
		return errUnknownType
	case len(parts) == 1:
		if set.KeyType = parts[0]; set.KeyType == nftables.TypeInetProto {
			set.KeyByteOrder = nil
		}
	default:
		set.KeyType, set.KeyByteOrder = nftables.MustConcatSetType(parts...), nil
	}
	// type TYPE; flags interval
	set.Interval, set.Concatenation = t.Interval(), t.Interval() && t.Concatenated()
	return nil
}

var (
	// errUnknownType refuses the zero SetType, which no set has.
	errUnknownType = errors.New("unknown set type")
	// errRangeMap refuses maps that package ruleset has no use for.
	errRangeMap = errors.New("a verdict map of ranges is not supported")
)

// newSet returns the library's set for an AddSet.
func newSet(table *nftables.Table, op nft.AddSet) (*nftables.Set, error) {
	set := &nftables.Set{Table: table, Name: op.Name, Comment: op.Comment}
	if err := setKey(set, op.Type); err != nil {
		return nil, err
	}
	if op.Dynamic { // flags dynamic,timeout; timeout 60s
		// Without a size, a set grows with what is in it, to nft.DynamicSize elements (nft_dynset_init in
		// net/netfilter/nft_dynset.c). With that as its size the kernel would at once make a hash table of
		// a megabyte, and go through all of it each second.
		set.Dynamic = true
		set.HasTimeout, set.Timeout = op.Timeout != 0, time.Duration(op.Timeout)*time.Second
	}
	if op.Timed { // flags timeout
		set.HasTimeout = true
	}
	if op.Map && op.Type.Interval() {
		return nil, errRangeMap
	}
	if op.Map { // map ... { type KEY : verdict; }
		set.IsMap, set.DataType = true, nftables.TypeVerdict
	}
	return set, nil
}

// split reports whether the elements of a set are ranges that are two elements each in the kernel:
// the start of the range, and the one after its last. A range of concatenations has both ends in one
// element.
func split(t nft.SetType) bool { return t.Interval() && !t.Concatenated() }

// setElement appends an element of a set in the form in which it is added or deleted.
func setElement(to []nftables.SetElement, t nft.SetType, e *nft.Element) []nftables.SetElement {
	key := t.AppendKey(make([]byte, 0, t.KeyLen()), e)
	switch {
	case !t.Interval():
		return append(to, nftables.SetElement{Key: key})
	case split(t):
		return interval(to, key, t.AppendLast(make([]byte, 0, t.KeyLen()), e))
	}
	return append(to, nftables.SetElement{Key: key, KeyEnd: t.AppendLast(make([]byte, 0, t.KeyLen()), e)})
}

// mapVerdict is the verdict of a map's entry.
func mapVerdict(v nft.Verdict) (*expr.Verdict, error) {
	switch v.Action {
	case nft.Accept:
		return &expr.Verdict{Kind: expr.VerdictAccept}, nil
	case nft.Drop:
		return &expr.Verdict{Kind: expr.VerdictDrop}, nil
	case nft.Jump:
		return &expr.Verdict{Kind: expr.VerdictJump, Chain: v.Chain}, nil
	}
	return nil, fmt.Errorf("verdict %d can't be in a map", v.Action)
}

// interval appends a range: the element at which it starts, and the one after its last, which says
// that the range has ended. A range that ends with the address space has no address after its
// last. nft then marks the start as open, for its own use.
//
// The end comes right after the start, ranges are in order of address, and both are in one message,
// because newer kernels judge overlaps by that. An end must follow its start (commit 782f2688128e
// "nft_set_rbtree: validate element belonging to interval"), and a start that is the last element
// of its message is an open one (648946966a08 "nft_set_rbtree: validate open interval overlap").
//
// nft also puts an end at address 0 into a new set, "for historical reasons";
// no kernel needs it, and it gets in the way of later additions.
func interval(to []nftables.SetElement, first, last []byte) []nftables.SetElement {
	if wrapped := increment(last); wrapped {
		return append(to, nftables.SetElement{Key: first, IntervalOpen: true})
	}
	return append(to, nftables.SetElement{Key: first}, nftables.SetElement{Key: last, IntervalEnd: true})
}

// increment turns an address into the next one, and reports whether there is no next one.
func increment(addr []byte) (wrapped bool) {
	for i := len(addr) - 1; i >= 0; i-- {
		if addr[i]++; addr[i] != 0 {
			return false
		}
	}
	return true
}

// maxElements is how many bytes of elements go into one message. The library
// splits them at 64,511; below that, its own splitting never sets in.
const maxElements = 60_000

// fill returns up to which element those from the given one on fit into one message. One element
// always does.
func (l elements) fill(from int) (to int) {
	size, each := 0, elementBytes(l.setType)
	for to = from; to < len(l.keys); to++ {
		size += each
		if l.timed != nil {
			size += attribute(8) + attribute(attribute(len(l.timed[to].Comment)+3))
		}
		if l.verdicts != nil {
			size += verdictBytes(len(l.verdicts[to].Verdict.Chain))
		}
		if size > maxElements && to > from {
			break
		}
	}
	return to
}

// convert returns some of the elements as the library's. This is done as late as possible, for one
// message at a time, because the library's elements are ten times as large.
func (l elements) convert(from, to int) []nftables.SetElement {
	halves := 1
	if split(l.setType) {
		halves = 2
	}
	converted := make([]nftables.SetElement, 0, halves*(to-from))
	for i := from; i < to; i++ {
		converted = setElement(converted, l.setType, &l.keys[i])
		if l.timed != nil {
			converted[len(converted)-1].Timeout = max(time.Until(l.timed[i].Expires), time.Millisecond)
			converted[len(converted)-1].Comment = l.timed[i].Comment
		}
		if l.verdicts != nil {
			// addVerdicts has checked that there is no error.
			converted[len(converted)-1].VerdictData, _ = mapVerdict(l.verdicts[i].Verdict)
		}
	}
	return converted
}

// text is some of the elements, for errors.
func (l elements) text(from, to int) string {
	first := l.setType.Text(l.keys[from])
	if to == from+1 {
		return "element " + first
	}
	return fmt.Sprintf("elements %s to %s (%d to %d of %d)",
		first, l.setType.Text(l.keys[to-1]), from+1, to, len(l.keys))
}

// attribute is how many bytes an attribute takes whose content has so many bytes. It adds a header,
// and padding to a multiple of 4.
func attribute(content int) int { return 4 + (content+3)&^3 }

// elementBytes is how many bytes of a message an element of a set takes, or a
// little more.
func elementBytes(t nft.SetType) int {
	key := attribute(attribute(t.KeyLen())) // key { value }
	switch {
	case !t.Interval():
		return attribute(key)
	case split(t):
		// There are two elements, the second with flags, or there is one with 6 bytes of user data.
		return attribute(key) + attribute(attribute(4)+key)
	}
	return attribute(2 * key)
}

// verdictBytes is how many more bytes an entry of a map takes, whose verdict jumps to a chain with a
// name of that length, or, for 0, to none.
func verdictBytes(chain int) int {
	return attribute(attribute(attribute(4) + attribute(chain+1))) // data { verdict { code, chain } }
}
