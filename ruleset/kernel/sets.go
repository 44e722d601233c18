package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"go4.org/netipx"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
)

// known reports whether the type of set is one of ruleset's.
func known(t ruleset.SetType) bool { return t <= ruleset.Pair6 }

// hasRanges reports whether the elements are ranges.
func hasRanges(t ruleset.SetType) bool {
	return t == ruleset.Range4 || t == ruleset.Range6 || t == ruleset.PortRange
}

// errRangeMap refuses what ruleset has no use for.
var errRangeMap = errors.New("a verdict map of ranges is not supported")

// newSet returns the library's set for an AddSet.
//
// The byte order that goes along is for nft alone, which reads elements by it.
// A concatenation has none: its fields have their own. (The library claims big
// endian for one with ranges; nft takes no notice.)
func newSet(table *nftables.Table, op ruleset.AddSet) (*nftables.Set, error) {
	set := &nftables.Set{Table: table, Name: op.Name, Comment: op.Comment, KeyByteOrder: binaryutil.BigEndian}
	switch op.Type {
	case ruleset.Addr4: // type ipv4_addr
		set.KeyType = nftables.TypeIPAddr
	case ruleset.Addr6: // type ipv6_addr
		set.KeyType = nftables.TypeIP6Addr
	case ruleset.Range4: // type ipv4_addr; flags interval
		set.KeyType, set.Interval = nftables.TypeIPAddr, true
	case ruleset.Range6: // type ipv6_addr; flags interval
		set.KeyType, set.Interval = nftables.TypeIP6Addr, true
	case ruleset.Port: // type inet_proto . inet_service
		set.KeyType = nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
	case ruleset.PortRange: // type inet_proto . inet_service; flags interval
		set.KeyType = nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
		set.Interval, set.Concatenation = true, true
	case ruleset.Endpoint4: // type ipv4_addr . inet_proto . inet_service
		set.KeyType = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	case ruleset.Endpoint6: // type ipv6_addr . inet_proto . inet_service
		set.KeyType = nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService)
	case ruleset.ICMPv6Type: // type icmpv6_type
		set.KeyType = nftables.TypeICMP6Type
	case ruleset.ICMPType: // type icmp_type
		set.KeyType = nftables.TypeICMPType
	case ruleset.Pair4: // type ipv4_addr . ipv4_addr
		set.KeyType = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr)
	case ruleset.Pair6: // type ipv6_addr . ipv6_addr
		set.KeyType = nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeIP6Addr)
	case ruleset.EtherAddr: // type ether_addr
		set.KeyType = nftables.TypeEtherAddr
	case ruleset.EtherType: // type ether_type
		set.KeyType = nftables.TypeEtherType
	case ruleset.Sender4: // type ifname . ether_addr . ipv4_addr
		set.KeyType = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr)
	case ruleset.Sender6: // type ifname . ether_addr . ipv6_addr
		set.KeyType = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIP6Addr)
	case ruleset.LinkAddr4: // type ifname . ipv4_addr
		set.KeyType = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr)
	case ruleset.LinkAddr6: // type ifname . ipv6_addr
		set.KeyType = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIP6Addr)
	case ruleset.IfName: // type ifname
		set.KeyType, set.KeyByteOrder = nftables.TypeIFName, binaryutil.NativeEndian
	default:
		return nil, fmt.Errorf("unknown set type %d", op.Type)
	}
	switch op.Type {
	case ruleset.Port, ruleset.PortRange, ruleset.Endpoint4, ruleset.Endpoint6, ruleset.Sender4, ruleset.Sender6,
		ruleset.LinkAddr4, ruleset.LinkAddr6, ruleset.Pair4, ruleset.Pair6:
		set.KeyByteOrder = nil
	}
	if op.Dynamic { // size 65535; flags dynamic,timeout; timeout 60s
		set.Dynamic, set.Size = true, ruleset.DynamicSize
		set.HasTimeout, set.Timeout = op.Timeout != 0, time.Duration(op.Timeout)*time.Second
	}
	if op.Map && hasRanges(op.Type) {
		return nil, errRangeMap
	}
	if op.Map { // map ... { type KEY : verdict; }
		set.IsMap, set.DataType = true, nftables.TypeVerdict
	}
	return set, nil
}

// keyBytes is the length of a key. The fields of a concatenation take whole
// registers of 4 bytes.
func keyBytes(t ruleset.SetType) int {
	switch t {
	case ruleset.Pair4:
		return 8
	case ruleset.Pair6:
		return 32
	case ruleset.Addr4, ruleset.Range4:
		return 4
	case ruleset.Addr6, ruleset.Range6:
		return 16
	case ruleset.Port, ruleset.PortRange:
		return 8
	case ruleset.Endpoint4:
		return 12
	case ruleset.Endpoint6:
		return 24
	case ruleset.EtherAddr:
		return 6
	case ruleset.EtherType:
		return 2
	case ruleset.IfName:
		return 16
	case ruleset.LinkAddr4:
		return 20
	case ruleset.LinkAddr6:
		return 32
	case ruleset.Sender4:
		return 28
	case ruleset.Sender6:
		return 40
	default: // ruleset.ICMPType, ruleset.ICMPv6Type
		return 1
	}
}

// setElement appends an element of a set, as it is added or deleted.
func setElement(to []nftables.SetElement, t ruleset.SetType, e ruleset.Element) []nftables.SetElement {
	switch t {
	case ruleset.Range4, ruleset.Range6:
		return interval(to, e, keyBytes(t))
	case ruleset.Port:
		return append(to, nftables.SetElement{Key: portKey(nil, e.Protocol, e.First)})
	case ruleset.PortRange:
		return append(to, nftables.SetElement{Key: portKey(nil, e.Protocol, e.First), KeyEnd: portKey(nil, e.Protocol, e.Last)})
	case ruleset.Endpoint4, ruleset.Endpoint6:
		return append(to, nftables.SetElement{Key: portKey(e.Addr[:keyBytes(t)-8], e.Protocol, e.First)})
	case ruleset.Pair4, ruleset.Pair6:
		half := keyBytes(t) / 2
		return append(to, nftables.SetElement{Key: slices.Concat(e.Addr[:half], e.LastAddr[:half])})
	case ruleset.ICMPType, ruleset.ICMPv6Type:
		return append(to, nftables.SetElement{Key: []byte{e.Protocol}})
	case ruleset.EtherAddr:
		return append(to, nftables.SetElement{Key: bytes.Clone(e.MAC[:])})
	case ruleset.EtherType:
		return append(to, nftables.SetElement{Key: binary.BigEndian.AppendUint16(nil, e.First)})
	case ruleset.Sender4, ruleset.Sender6:
		return append(to, nftables.SetElement{Key: slices.Concat(e.Port[:], e.MAC[:], []byte{0, 0}, e.Addr[:keyBytes(t)-24])})
	case ruleset.LinkAddr4, ruleset.LinkAddr6:
		return append(to, nftables.SetElement{Key: slices.Concat(e.Port[:], e.Addr[:keyBytes(t)-16])})
	case ruleset.IfName:
		return append(to, nftables.SetElement{Key: bytes.Clone(e.Port[:])})
	default: // ruleset.Addr4, ruleset.Addr6
		return append(to, nftables.SetElement{Key: bytes.Clone(e.Addr[:keyBytes(t)])})
	}
}

// mapVerdict is the verdict of a map's entry.
func mapVerdict(v ruleset.Verdict) (*expr.Verdict, error) {
	switch v.Action {
	case ruleset.Accept:
		return &expr.Verdict{Kind: expr.VerdictAccept}, nil
	case ruleset.Drop:
		return &expr.Verdict{Kind: expr.VerdictDrop}, nil
	case ruleset.Jump:
		return &expr.Verdict{Kind: expr.VerdictJump, Chain: v.Chain}, nil
	}
	return nil, fmt.Errorf("verdict %d can't be in a map", v.Action)
}

// portKey is the key address . protocol . port; without an address,
// protocol . port.
func portKey(addr []byte, protocol uint8, port uint16) []byte {
	key := make([]byte, 0, len(addr)+8)
	key = append(key, addr...)
	key = append(key, protocol, 0, 0, 0)
	key = binary.BigEndian.AppendUint16(key, port)
	return append(key, 0, 0)
}

// interval appends a range: the element at which it starts, and the one after
// its last, which says that it has ended. A range that ends with the address
// space has no address after its last; nft then marks the start as open, for
// its own use.
//
// Start and end go one right after the other, in order of address, and in one
// message: newer kernels judge overlaps by that. An end must follow its start
// (commits 782f2688128e "nft_set_rbtree: validate element belonging to interval"), and a
// start that is the last of its message is an open one (648946966a08
// "nft_set_rbtree: validate open interval overlap").
//
// nft also puts an end at address 0 into a new set, "for historical reasons";
// no kernel needs it, and it gets in the way of later additions.
func interval(to []nftables.SetElement, e ruleset.Element, length int) []nftables.SetElement {
	start := bytes.Clone(e.Addr[:length])
	end, wrapped := after(e.LastAddr[:length])
	if wrapped {
		return append(to, nftables.SetElement{Key: start, IntervalOpen: true})
	}
	return append(to, nftables.SetElement{Key: start}, nftables.SetElement{Key: end, IntervalEnd: true})
}

// after returns the address after another, and whether there is none.
func after(addr []byte) (next []byte, wrapped bool) {
	next = bytes.Clone(addr)
	for i := len(next) - 1; i >= 0; i-- {
		if next[i]++; next[i] != 0 {
			return next, false
		}
	}
	return next, true
}

// maxElements is how many bytes of elements go into one message. The library
// splits them at 64,511; below that, its own splitting never sets in.
const maxElements = 60_000

// fill returns up to where the elements from there on fit one message. One
// always does.
func (l elements) fill(from int) (to int) {
	size := 0
	for to = from; to < len(l.keys); to++ {
		size += elementBytes(l.setType)
		if l.verdicts != nil {
			size += verdictBytes(len(l.verdicts[to].Verdict.Chain))
		}
		if size > maxElements && to > from {
			break
		}
	}
	return to
}

// convert returns some of the elements as the library's. Only now, message by
// message: its elements are ten times the size.
func (l elements) convert(from, to int) []nftables.SetElement {
	halves := 1
	if l.setType == ruleset.Range4 || l.setType == ruleset.Range6 {
		halves = 2
	}
	converted := make([]nftables.SetElement, 0, halves*(to-from))
	for i := from; i < to; i++ {
		converted = setElement(converted, l.setType, l.keys[i])
		if l.verdicts != nil {
			// Checked by addVerdicts.
			converted[len(converted)-1].VerdictData, _ = mapVerdict(l.verdicts[i].Verdict)
		}
	}
	return converted
}

// text is some of the elements, for errors.
func (l elements) text(from, to int) string {
	first := elementText(l.setType, l.keys[from])
	if to == from+1 {
		return "element " + first
	}
	return fmt.Sprintf("elements %s to %s (%d to %d of %d)",
		first, elementText(l.setType, l.keys[to-1]), from+1, to, len(l.keys))
}

// attribute is how many bytes an attribute takes whose content has so many: a
// header, and padding to a multiple of 4.
func attribute(content int) int { return 4 + (content+3)&^3 }

// elementBytes is how many bytes of a message an element of a set takes, or a
// little more.
func elementBytes(t ruleset.SetType) int {
	key := attribute(attribute(keyBytes(t))) // key { value }
	switch t {
	case ruleset.Range4, ruleset.Range6:
		// Two elements, the second with flags; or one with 6 bytes of user data.
		return attribute(key) + attribute(attribute(4)+key)
	case ruleset.PortRange:
		return attribute(2 * key)
	default:
		return attribute(key)
	}
}

// verdictBytes is how many more an entry of a map takes whose verdict jumps to a
// chain with a name of that length, or none.
func verdictBytes(chain int) int {
	return attribute(attribute(attribute(4) + attribute(chain+1))) // data { verdict { code, chain } }
}

// elementText is the element as nft writes it, for errors.
func elementText(t ruleset.SetType, e ruleset.Element) string {
	addr, last := netip.AddrFrom16(e.Addr), netip.AddrFrom16(e.LastAddr)
	if t == ruleset.Addr4 || t == ruleset.Range4 || t == ruleset.Endpoint4 || t == ruleset.Sender4 || t == ruleset.Pair4 {
		addr, last = netip.AddrFrom4([4]byte(e.Addr[:4])), netip.AddrFrom4([4]byte(e.LastAddr[:4]))
	}
	switch t {
	case ruleset.Range4, ruleset.Range6:
		addrs := netipx.IPRangeFrom(addr, last)
		if prefix, is := addrs.Prefix(); is {
			return prefix.String()
		}
		return addrs.String()
	case ruleset.PortRange:
		return fmt.Sprintf("%v . %d-%d", policy.Protocol(e.Protocol), e.First, e.Last)
	case ruleset.Endpoint4, ruleset.Endpoint6:
		return fmt.Sprintf("%v . %v . %d", addr, policy.Protocol(e.Protocol), e.First)
	case ruleset.Pair4, ruleset.Pair6:
		return fmt.Sprintf("%v . %v", addr, last)
	case ruleset.ICMPType, ruleset.ICMPv6Type:
		return fmt.Sprint(e.Protocol)
	case ruleset.EtherAddr:
		return net.HardwareAddr(e.MAC[:]).String()
	case ruleset.EtherType:
		return fmt.Sprintf("%#04x", e.First)
	case ruleset.Sender4, ruleset.Sender6:
		return fmt.Sprintf("%s . %s . %v", bytes.TrimRight(e.Port[:], "\x00"), net.HardwareAddr(e.MAC[:]), addr)
	default:
		return addr.String()
	}
}
