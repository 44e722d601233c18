package nft

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"

	"go4.org/netipx"

	"github.com/podfence/podfence/policy/packet"
)

// Element is one element of a set, or the key of an entry of a map. It is comparable, and holds no
// pointers because there are many elements. The type of the set says which fields count; the
// others are zero.
type Element struct {
	// Addr is the address, or the first address of a range or of a pair. It has 16 bytes; an IPv4
	// address is in the first 4. LastAddr is the last address of the range, or the second of the
	// pair.
	Addr, LastAddr [16]byte
	// Protocol is the IP protocol, or the message type.
	Protocol uint8
	// First is the port, or the EtherType; First to Last are a range of ports, both
	// included.
	First, Last uint16
	// MAC is the hardware address.
	MAC [6]byte
	// Port is the name of the link, padded with zeros as the kernel does it.
	Port [16]byte
}

// AddrElement is the element of an address.
func AddrElement(addr netip.Addr) Element {
	var e Element
	copy(e.Addr[:], addr.AsSlice())
	return e
}

// AddrsElement is the element of a range of addresses, both included.
func AddrsElement(first, last netip.Addr) Element {
	e := AddrElement(first)
	e.LastAddr = AddrElement(last).Addr
	return e
}

// PrefixElement is the element of a prefix.
func PrefixElement(prefix netip.Prefix) Element {
	return AddrsElement(prefix.Masked().Addr(), netipx.PrefixLastIP(prefix))
}

// PortElement is the element of a port.
func PortElement(protocol packet.Protocol, port uint16) Element {
	return Element{Protocol: uint8(protocol), First: port}
}

// PortsElement is the element of a range of ports, both included.
func PortsElement(protocol packet.Protocol, first, last uint16) Element {
	return Element{Protocol: uint8(protocol), First: first, Last: last}
}

// LinkElement adds the name of a link to an element. It reports false if the name is too long to
// be that of a link (IFNAMSIZ).
func LinkElement(e Element, link string) (Element, bool) {
	copy(e.Port[:], link)
	return e, len(link) < len(e.Port)
}

// SortedElements are the elements of a set, or the keys of a map, in order.
func SortedElements[V any](elements map[Element]V) []Element {
	sorted := make([]Element, 0, len(elements))
	for e := range elements {
		sorted = append(sorted, e)
	}
	slices.SortFunc(sorted, CompareElements)
	return sorted
}

// CompareElements puts elements into order.
func CompareElements(a, b Element) int {
	// Usually the addresses differ. cmp.Or would work out all comparisons even then.
	if c := bytes.Compare(a.Addr[:], b.Addr[:]); c != 0 {
		return c
	}
	return cmp.Or(
		bytes.Compare(a.LastAddr[:], b.LastAddr[:]),
		cmp.Compare(a.Protocol, b.Protocol),
		cmp.Compare(a.First, b.First),
		cmp.Compare(a.Last, b.Last),
		slices.Compare(a.MAC[:], b.MAC[:]),
		slices.Compare(a.Port[:], b.Port[:]),
	)
}
