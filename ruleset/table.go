package ruleset

import (
	"net/netip"

	"github.com/podfence/podfence/policy"
)

// TableName is the one table, of family inet, that podfence owns. Every
// component should create its own table and work only within that.
const TableName = "podfence"

// Table is what the kernel holds, or must hold.
type Table struct {
	Sets   map[string]*Set
	Chains map[string]*Chain

	options Options
	// refs counts the rules that look a set up that is named by its content.
	refs map[string]int
	// addrs are the addresses that a subject has in the maps.
	addrs map[policy.Key][]netip.Addr
}

// SetType is the type of a set's elements, with the set flags that it needs.
type SetType uint8

// The types of set in the table, in nft's words.
const (
	Addr4      SetType = iota // ipv4_addr
	Addr6                     // ipv6_addr
	Prefix4                   // ipv4_addr; flags interval
	Prefix6                   // ipv6_addr; flags interval
	Ports                     // inet_proto . inet_service; flags interval
	Endpoint4                 // ipv4_addr . inet_proto . inet_service
	Endpoint6                 // ipv6_addr . inet_proto . inet_service
	ICMPv6Type                // icmpv6_type
)

// Element is one element of a set, or the key of one of a map. It is
// comparable, and holds no pointer: there are many. Which fields count is the
// set's type's to say; the others are zero.
type Element struct {
	// Addr is the address, or the first of the prefix: 16 bytes, an IPv4 one in
	// the first 4.
	Addr [16]byte
	// Bits is the prefix length (Prefix4, Prefix6).
	Bits uint8
	// Protocol is the IP protocol (Ports, Endpoint4, Endpoint6), or the message
	// type (ICMPv6Type).
	Protocol uint8
	// First is the port (Endpoint4, Endpoint6); First to Last are the range,
	// both included (Ports).
	First, Last uint16
}

// Set is a named set, or a verdict map.
type Set struct {
	Name    string
	Type    SetType
	Comment string
	// Elements are the set's. Nil for a map.
	Elements map[Element]struct{}
	// Verdicts are the map's. Nil for a set.
	Verdicts map[Element]Verdict
}

// IsMap reports whether the set is a verdict map.
func (s *Set) IsMap() bool { return s.Verdicts != nil }

// Chain is a chain with its rules.
type Chain struct {
	Name string
	// Hook makes it a base chain; nil otherwise. Its policy is accept: what is
	// not for or from a pod of this node is none of podfence's business.
	Hook  *Hook
	Rules []Rule
}

// Hook is where a base chain is attached.
type Hook struct {
	Point HookPoint
	// Priority is relative to filter (0), as in "priority filter - 10".
	Priority int
}

// HookPoint is a netfilter hook.
type HookPoint uint8

// The hooks that podfence uses.
const (
	Forward HookPoint = iota
	Input
)

func (h HookPoint) String() string {
	if h == Forward {
		return "forward"
	}
	return "input"
}

// Rule is one rule: every match must hold, then the packet is counted and the
// verdict reached. The nft text has the same order.
type Rule struct {
	Matches []Match
	// Counter counts packets and bytes that reach the verdict.
	Counter bool
	Verdict Verdict
	// Comment is at most maxComment bytes.
	Comment string
}

// Match is one of Loopback, CtState, Mark, HopLimit, Lookup. The set is closed.
type Match interface{ match() }

// Loopback matches packets on the loopback device: iifname "lo".
type Loopback struct{}

// CtState matches the states of connection tracking in the mask.
type CtState uint8

// The states, as bits.
const (
	Established CtState = 1 << iota
	Related
	Invalid
	New
)

// Mark matches flows whose conntrack mark has all of these bits: ct mark & M == M.
type Mark uint32

// HopLimit matches the IPv6 hop limit: ip6 hoplimit N.
type HopLimit uint8

// Lookup matches when the fields, concatenated, are in the set.
type Lookup struct {
	Fields []Field
	Set    string
}

func (Loopback) match() {}
func (CtState) match()  {}
func (Mark) match()     {}
func (HopLimit) match() {}
func (Lookup) match()   {}

// Field is a field of the packet.
type Field uint8

// The fields, in nft's words. Those of an address match only packets of their
// own family, ICMPv6MessageType only ICMPv6.
const (
	SrcAddr4          Field = iota // ip saddr
	DstAddr4                       // ip daddr
	SrcAddr6                       // ip6 saddr
	DstAddr6                       // ip6 daddr
	L4Protocol                     // meta l4proto
	DstPort                        // th dport
	ICMPv6MessageType              // icmpv6 type
)

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
	Accept   Action = iota // ends this base chain, not the others of the hook
	Drop                   // final
	Reject                 // final, with an ICMP error: icmpx admin-prohibited
	Jump                   // to Chain, and on here if that comes to no verdict
	Dispatch               // to the verdict that Map has for Field; on if it has none
)

// Options are the choices that change the table.
type Options struct {
	// Reject answers denied packets with an ICMP error; else they are dropped.
	Reject bool
	// AllowToNode lets pods reach their own node whatever their egress policies
	// say; else they are policed there too.
	AllowToNode bool
	// RevokedMark is the bit of the conntrack mark that says that a flow has
	// been revoked. Zero: none is looked for.
	RevokedMark uint32
}

// AddrElement is the element of an address.
func AddrElement(addr netip.Addr) Element {
	var e Element
	copy(e.Addr[:], addr.AsSlice())
	return e
}

// PrefixElement is the element of a prefix.
func PrefixElement(prefix netip.Prefix) Element {
	e := AddrElement(prefix.Addr())
	e.Bits = uint8(prefix.Bits())
	return e
}

// EndpointElement is the element of an endpoint.
func EndpointElement(endpoint policy.Endpoint) Element {
	e := AddrElement(endpoint.Addr)
	e.Protocol, e.First = uint8(endpoint.Protocol), endpoint.Port
	return e
}

// PortsElement is the element of a range of ports.
func PortsElement(ports policy.PortRange) Element {
	return Element{Protocol: uint8(ports.Protocol), First: ports.First, Last: ports.Last}
}

// Size counts what a table holds.
type Size struct{ Sets, Maps, Chains, Rules, Elements int }

// Size counts what the table holds. It costs its sets and chains, not its
// elements.
func (t *Table) Size() (s Size) {
	for _, set := range t.Sets {
		if set.IsMap() {
			s.Maps++
		} else {
			s.Sets++
		}
		s.Elements += len(set.Elements) + len(set.Verdicts)
	}
	for _, chain := range t.Chains {
		s.Chains++
		s.Rules += len(chain.Rules)
	}
	return s
}
