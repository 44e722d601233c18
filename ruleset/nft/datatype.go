package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"go4.org/netipx"
)

// Datatype is one of nft's types of values. Fields of packets have one, and so have the parts of
// a set's elements.
type Datatype uint8

// The datatypes, by nft's names.
const (
	_           Datatype = iota
	IPv4Addr             // ipv4_addr
	IPv6Addr             // ipv6_addr
	InetProto            // inet_proto
	InetService          // inet_service
	ICMPType             // icmp_type
	ICMPv6Type           // icmpv6_type
	EtherAddr            // ether_addr
	EtherType            // ether_type
	IfName               // ifname
)

// description is all that anybody needs to know of a datatype. An element may have two values of a
// datatype: the first and the last of a range, or the two of a pair. The parameter second says
// which is meant.
type description struct {
	name string
	// width is how many bytes a value has in the kernel.
	width int
	// host: nft takes a value's bytes to be in the order of the machine; else big-endian.
	host bool
	// text is an element's part as nft writes it, quoted where nft quotes it.
	text func(e Element, second bool) string
	// rangeText is a range as nft writes it. If it is nil, fromTo writes the range.
	rangeText func(e Element) string
	// appendTo appends an element's part as the kernel has it, with as many bytes as the width.
	appendTo func(key []byte, e *Element, second bool) []byte
}

// descriptions are those of all datatypes.
var descriptions = [...]description{
	IPv4Addr: {
		name: "ipv4_addr", width: 4,
		text:      func(e Element, second bool) string { return addr4(e.addr(second)).String() },
		rangeText: func(e Element) string { return addrsText(addr4(&e.Addr), addr4(&e.LastAddr)) },
		appendTo:  func(key []byte, e *Element, second bool) []byte { return append(key, e.addr(second)[:4]...) },
	},
	IPv6Addr: {
		name: "ipv6_addr", width: 16,
		text:      func(e Element, second bool) string { return netip.AddrFrom16(*e.addr(second)).String() },
		rangeText: func(e Element) string { return addrsText(netip.AddrFrom16(e.Addr), netip.AddrFrom16(e.LastAddr)) },
		appendTo:  func(key []byte, e *Element, second bool) []byte { return append(key, e.addr(second)[:]...) },
	},
	InetProto: {
		name: "inet_proto", width: 1,
		text:     func(e Element, _ bool) string { return protocolText(e.Protocol) },
		appendTo: appendProtocol,
	},
	InetService: {
		name: "inet_service", width: 2,
		text: func(e Element, second bool) string { return fmt.Sprint(e.number(second)) },
		appendTo: func(key []byte, e *Element, second bool) []byte {
			return binary.BigEndian.AppendUint16(key, e.number(second))
		},
	},
	ICMPType: {
		name: "icmp_type", width: 1,
		text:     func(e Element, _ bool) string { return named(icmpTypes, e.Protocol, "%d") },
		appendTo: appendProtocol,
	},
	ICMPv6Type: {
		name: "icmpv6_type", width: 1,
		text:     func(e Element, _ bool) string { return named(icmpv6Types, e.Protocol, "%d") },
		appendTo: appendProtocol,
	},
	EtherAddr: {
		name: "ether_addr", width: 6,
		text:     func(e Element, _ bool) string { return macText(e.MAC) },
		appendTo: func(key []byte, e *Element, _ bool) []byte { return append(key, e.MAC[:]...) },
	},
	EtherType: {
		name: "ether_type", width: 2,
		text:     func(e Element, _ bool) string { return named(etherTypes, e.First, "0x%04x") },
		appendTo: func(key []byte, e *Element, _ bool) []byte { return binary.BigEndian.AppendUint16(key, e.First) },
	},
	IfName: {
		name: "ifname", width: 16, host: true,
		text:     func(e Element, _ bool) string { return fmt.Sprintf("%q", bytes.TrimRight(e.Port[:], "\x00")) },
		appendTo: func(key []byte, e *Element, _ bool) []byte { return append(key, e.Port[:]...) },
	},
}

func (d Datatype) String() string { return descriptions[d].name }

// Width is how many bytes a value has in the kernel.
func (d Datatype) Width() int { return descriptions[d].width }

// HostOrder reports whether nft takes a value's bytes to be in the order of the machine; else
// they are big-endian.
func (d Datatype) HostOrder() bool { return descriptions[d].host }

// addr is an element's first or second address, and number its first or last number.
func (e *Element) addr(second bool) *[16]byte {
	if second {
		return &e.LastAddr
	}
	return &e.Addr
}

func (e *Element) number(second bool) uint16 {
	if second {
		return e.Last
	}
	return e.First
}

func addr4(addr *[16]byte) netip.Addr { return netip.AddrFrom4([4]byte(addr[:4])) }

// addrsText is the text of a range of addresses: a prefix, where the range is one.
func addrsText(first, last netip.Addr) string {
	prefix, is := netipx.IPRangeFrom(first, last).Prefix()
	switch {
	case !is:
		return first.String() + "-" + last.String()
	case prefix.IsSingleIP():
		return first.String()
	}
	return prefix.String()
}

// fromTo is the text of a range of values: if it has only one value, that value.
func (d *description) fromTo(e Element) string {
	first, last := d.text(e, false), d.text(e, true)
	if first == last {
		return first
	}
	return first + "-" + last
}

func appendProtocol(key []byte, e *Element, _ bool) []byte { return append(key, e.Protocol) }

func protocolText(p uint8) string {
	switch p {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 132:
		return "sctp"
	}
	return fmt.Sprint(p)
}

// named is nft's name for a value, or the value itself where this package knows no name.
func named[V uint8 | uint16](names map[V]string, value V, format string) string {
	if name, known := names[value]; known {
		return name
	}
	return fmt.Sprintf(format, value)
}

// icmpv6Types are nft's names of types of ICMPv6's messages.
var icmpv6Types = map[uint8]string{
	130: "mld-listener-query", 131: "mld-listener-report", 132: "mld-listener-done", 143: "mld2-listener-report",
	133: "nd-router-solicit", 134: "nd-router-advert", 135: "nd-neighbor-solicit", 136: "nd-neighbor-advert", 137: "nd-redirect",
}

// icmpTypes are nft's names of ICMP's error messages.
var icmpTypes = map[uint8]string{
	3: "destination-unreachable", 4: "source-quench", ICMPRedirect: "redirect", 11: "time-exceeded", 12: "parameter-problem",
}

// ICMPRedirect is the ICMP type of a redirect.
const ICMPRedirect = 5

// The EtherTypes that rules speak of.
const (
	TypeIPv4 = 0x0800
	TypeARP  = 0x0806
	TypeIPv6 = 0x86dd
)

// etherTypes are nft's names of them.
var etherTypes = map[uint16]string{TypeIPv4: "ip", TypeARP: "arp", TypeIPv6: "ip6"}

func macText(mac [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5])
}
