package ruleset

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/podfence/podfence/policy"
)

// TableName is the name of the tables that podfence owns: one of family inet
// and, where podfence connects the pods too, one of family bridge (see
// BuildGuard). Every component should create its own tables and work only
// within those.
const TableName = "podfence"

// Family is the family of a table: which packets it sees.
type Family uint8

// The families that podfence has a table of.
const (
	Inet   Family = iota // IPv4 and IPv6 packets
	Bridge               // frames that a bridge handles
)

func (f Family) String() string {
	if f == Inet {
		return "inet"
	}
	return "bridge"
}

// Table is what the kernel holds, or must hold.
type Table struct {
	Family Family
	Sets   map[string]*Set
	Chains map[string]*Chain

	options Options
	// refs counts the rules that look a set up that is named by its content.
	refs map[string]int
	// addrs are the addresses that a subject has in the maps, subjects those that have an
	// address, in order.
	addrs    map[policy.Key][]netip.Addr
	subjects map[netip.Addr][]policy.Key
	// shared are the chains of an address that several subjects have.
	shared map[netip.Addr]map[string]struct{}
	// filters are the base chains of each hook that judge, which stay, as the kernel runs
	// them.
	filters map[HookPoint][]string
}

func newTable(family Family, o Options) *Table {
	return &Table{
		Family: family, Sets: map[string]*Set{}, Chains: map[string]*Chain{}, options: o,
		refs: map[string]int{}, addrs: map[policy.Key][]netip.Addr{},
		subjects: map[netip.Addr][]policy.Key{}, shared: map[netip.Addr]map[string]struct{}{},
		filters: map[HookPoint][]string{},
	}
}

// addStatic adds chains that stay as long as the table. The base chains of a hook run by
// priority. Of those that have the same, the order makes no difference: none of them changes
// the packet, and what one accepts the next one judges all the same.
func (t *Table) addStatic(chains []*Chain) {
	for _, chain := range chains {
		t.Chains[chain.Name] = chain
		if chain.Hook == nil || chain.Hook.NAT {
			continue
		}
		names := append(t.filters[chain.Hook.Point], chain.Name)
		slices.SortFunc(names, func(a, b string) int {
			first, _ := t.Chains[a].Hook.Number(t.Family)
			second, _ := t.Chains[b].Hook.Number(t.Family)
			return cmp.Or(cmp.Compare(first, second), strings.Compare(a, b))
		})
		t.filters[chain.Hook.Point] = names
	}
}

// SetType is the type of a set's elements, with the set flags that it needs.
type SetType uint8

// The types of set in the table, in nft's words.
const (
	Addr4      SetType = iota // ipv4_addr
	Addr6                     // ipv6_addr
	Range4                    // ipv4_addr; flags interval
	Range6                    // ipv6_addr; flags interval
	Port                      // inet_proto . inet_service
	PortRange                 // inet_proto . inet_service; flags interval
	Endpoint4                 // ipv4_addr . inet_proto . inet_service
	Endpoint6                 // ipv6_addr . inet_proto . inet_service
	ICMPv6Type                // icmpv6_type
	EtherAddr                 // ether_addr
	EtherType                 // ether_type
	Sender4                   // ifname . ether_addr . ipv4_addr
	Sender6                   // ifname . ether_addr . ipv6_addr
	IfName                    // ifname
	LinkAddr4                 // ifname . ipv4_addr
	LinkAddr6                 // ifname . ipv6_addr
	ICMPType                  // icmp_type
	Pair4                     // ipv4_addr . ipv4_addr
	Pair6                     // ipv6_addr . ipv6_addr
)

// Element is one element of a set, or the key of one of a map. It is
// comparable, and holds no pointer: there are many. Which fields count is the
// set's type's to say; the others are zero.
type Element struct {
	// Addr is the address, or the first of the range or the pair: 16 bytes, an IPv4
	// one in the first 4. LastAddr is the last of the range (Range4, Range6), or the
	// second of the pair (Pair4, Pair6).
	Addr, LastAddr [16]byte
	// Protocol is the IP protocol (Port, PortRange, Endpoint4, Endpoint6), or the
	// message type (ICMPType, ICMPv6Type).
	Protocol uint8
	// First is the port (Port, Endpoint4, Endpoint6) or the number (EtherType);
	// First to Last are the range, both included (PortRange).
	First, Last uint16
	// MAC is the hardware address (EtherAddr, Sender4, Sender6).
	MAC [6]byte
	// Port is the name of the link, padded with zeros as the kernel does it
	// (Sender4, Sender6, IfName, LinkAddr4, LinkAddr6).
	Port [16]byte
}

// Set is a named set, or a verdict map.
type Set struct {
	Name    string
	Type    SetType
	Comment string
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
	// NAT makes it a chain of type nat, which sees only the first packet of a
	// flow; else it is of type filter.
	NAT   bool
	Point HookPoint
	// Base is what Priority is relative to, as in "priority filter - 10".
	Base     Base
	Priority int
}

// Base is a priority with a name. The family says what number it is.
type Base uint8

// The bases.
const (
	Filter Base = iota
	DstNAT
	SrcNAT
	Raw // family inet only
)

func (b Base) String() string {
	return [...]string{Filter: "filter", DstNAT: "dstnat", SrcNAT: "srcnat", Raw: "raw"}[b]
}

// numbers are the named priorities: enum nf_ip_hook_priorities of
// include/uapi/linux/netfilter_ipv4.h, nf_br_hook_priorities of netfilter_bridge.h.
var numbers = map[Family]map[Base]int{
	Inet:   {Filter: 0, Raw: -300, DstNAT: -100, SrcNAT: 100},
	Bridge: {Filter: -200, DstNAT: -300, SrcNAT: 300},
}

// Number is the priority as the kernel has it in a table of a family: the lower, the
// earlier. It is not known if the family has no such base.
func (h *Hook) Number(f Family) (number int, known bool) {
	number, known = numbers[f][h.Base]
	return number + h.Priority, known
}

// HookPoint is a netfilter hook.
type HookPoint uint8

// The hooks that podfence uses.
const (
	Forward HookPoint = iota
	Input
	Output
	Prerouting
	Postrouting
)

func (h HookPoint) String() string {
	return [...]string{Forward: "forward", Input: "input", Output: "output", Prerouting: "prerouting", Postrouting: "postrouting"}[h]
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

// Match is one of Loopback, PodPort, PacketType, CtState, Mark, Midstream, ICMPv6,
// Authenticated, ICMPv6Error, Redirect, Fragment, Atomic, UpperLayer, NextHeader, HopLimit, MessageType,
// Elsewhere, DNAT, Unconfirmed, Lookup, Limit, Connections, Noted. The set is closed.
type Match interface{ match() }

// Loopback matches packets on the loopback device: iifname "lo".
type Loopback struct{}

// PodPort matches packets that came in by a pod's port of podfence's bridge:
// iifgroup LinkGroup.
type PodPort struct{}

// PacketType matches packets by where their frame went to: meta pkttype P.
type PacketType uint8

// The packet types, as the kernel numbers them (include/uapi/linux/if_packet.h).
const (
	Broadcast PacketType = 1
	Multicast PacketType = 2
)

// CtState matches the states of connection tracking in the mask.
type CtState uint8

// The states, as bits.
const (
	Established CtState = 1 << iota
	Related
	Invalid
	New
	Untracked // by a rule of somebody's that exempts it (NOTRACK)
)

// Mark matches flows whose conntrack mark has all of these bits: ct mark & M == M.
type Mark uint32

// Midstream matches packets of a protocol that begin no connection: TCP's without
// SYN (tcp flags ! syn), SCTP's that have another chunk than INIT first
// (@th,96,8 != 0x1). Where connection tracking knows the connection no more, it
// takes them for new all the same (nf_conntrack_tcp_loose; an SCTP HEARTBEAT).
type Midstream policy.Protocol

// ICMPv6 matches ICMPv6: meta l4proto ipv6-icmp.
type ICMPv6 struct{}

// Authenticated matches packets with an authentication header (RFC 4302), which the kernel
// takes for their upper layer, whatever is behind it: meta l4proto ah.
type Authenticated struct{}

// ICMPv6Error matches ICMPv6 that reports an error (RFC 4443 section 2.1):
// icmpv6 type < 128.
type ICMPv6Error struct{}

// Redirect matches ICMP's redirect: icmp type redirect.
type Redirect struct{}

// Fragment matches fragments of a family, or only such as begin a datagram: ip frag-off &
// 16383 != 0, exthdr frag exists; ip frag-off & 8191 == 0, frag frag-off 0. IPv4's First
// also matches a datagram that is whole.
type Fragment struct{ V6, First bool }

// Atomic matches IPv6 that is whole in one fragment (RFC 6946): frag frag-off 0 frag
// more-fragments 0.
type Atomic struct{}

// UpperLayer matches what has 8 octets of an upper-layer header, the least of all
// protocols' that have ports or types: @th,56,8 >= 0x0.
type UpperLayer struct{}

// NextHeader matches what comes right behind the IPv6 header, or, with Not, anything else:
// ip6 nexthdr ipv6-icmp.
type NextHeader struct {
	Protocol policy.Protocol // hop-by-hop options, or ICMPv6
	Not      bool
}

// HopLimit matches the IPv6 hop limit: ip6 hoplimit N.
type HopLimit uint8

// MessageType matches the type of an ICMPv6 message: icmpv6 type T.
type MessageType uint8

// Elsewhere matches packets that came in by another link than the one that the route to
// their source leads to, or that there is no such route for: fib saddr . iif oif missing.
type Elsewhere struct{}

// DNAT matches packets of flows that destination NAT has led elsewhere, whoever did it: ct
// status dnat.
type DNAT struct{}

// Lookup matches when the fields, concatenated, are in the set: ip saddr @set.
type Lookup struct {
	Fields []Field
	Set    string
	// Not matches when they are not in it: ip saddr != @set. The packet must
	// have the fields all the same.
	Not bool
}

// Limit matches as long as what the field holds comes at no more than a rate, of which
// the set, a dynamic one, keeps account for each:
// update @set { ip daddr limit rate N/second burst N packets }. It does not match either
// where the set is full.
type Limit struct {
	Field Field
	Set   string
	// PerSecond and Burst are packets, or octets; so many may come at once.
	PerSecond, Burst uint32
	Octets           bool
}

// Unconfirmed matches the first packet of a connection, before it has passed: ct status !
// confirmed.
type Unconfirmed struct{}

// Connections matches when what the field holds has more connections than the bound, this
// one included, of which the set, a dynamic one, keeps account for each:
// add @set { ip saddr ct count over N }. It does not match either where the set is full.
type Connections struct {
	Field Field
	Set   string
	Over  uint32
}

// Noted puts what the field holds into the set, a dynamic one: add @set { ip saddr }. It
// matches unless the set is full.
type Noted struct {
	Field Field
	Set   string
}

func (Unconfirmed) match()   {}
func (Connections) match()   {}
func (Noted) match()         {}
func (ICMPv6Error) match()   {}
func (Redirect) match()      {}
func (Fragment) match()      {}
func (Atomic) match()        {}
func (UpperLayer) match()    {}
func (Limit) match()         {}
func (Loopback) match()      {}
func (PodPort) match()       {}
func (PacketType) match()    {}
func (CtState) match()       {}
func (Mark) match()          {}
func (Midstream) match()     {}
func (ICMPv6) match()        {}
func (Authenticated) match() {}
func (NextHeader) match()    {}
func (HopLimit) match()      {}
func (MessageType) match()   {}
func (Elsewhere) match()     {}
func (DNAT) match()          {}
func (Lookup) match()        {}

// Field is a field of the packet.
type Field uint8

// The fields, in nft's words. Those of an IP address match only packets of their
// own family, ICMPMessageType only ICMP, ICMPv6MessageType only ICMPv6, those of ARP
// only ARP. Those of the flow match only packets that connection tracking knows a flow
// of, of their own family. Those of the frame are for the table of family bridge.
const (
	SrcAddr4          Field = iota // ip saddr
	DstAddr4                       // ip daddr
	SrcAddr6                       // ip6 saddr
	DstAddr6                       // ip6 daddr
	L4Protocol                     // meta l4proto
	DstPort                        // th dport
	ICMPv6MessageType              // icmpv6 type
	InPort                         // iifname
	OutPort                        // oifname
	SrcMAC                         // ether saddr
	DstMAC                         // ether daddr
	FrameType                      // ether type
	ARPSrcMAC                      // arp saddr ether
	ARPSrcAddr                     // arp saddr ip
	ARPDstAddr                     // arp daddr ip
	ICMPMessageType                // icmp type
	CtOriginalSrc4                 // ct original ip saddr
	CtOriginalSrc6                 // ct original ip6 saddr
	CtReplySrc4                    // ct reply ip saddr
	CtReplySrc6                    // ct reply ip6 saddr
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
	Accept     Action = iota // ends this base chain, not the others of the hook
	Drop                     // final
	Reject                   // final, with an ICMP error: icmpx admin-prohibited
	Jump                     // to Chain, and on here if that comes to no verdict
	Dispatch                 // to the verdict that Map has for Field; on if it has none
	Return                   // back to the rule after the jump
	Masquerade               // accept, with the outgoing link's address as the source
)

// Options are the choices that change the table.
type Options struct {
	// Reject answers denied packets with an ICMP error; else they are dropped.
	Reject bool
	// AllowToNode lets pods reach their own node whatever their egress policies
	// say; else they are policed there too.
	AllowToNode bool
	// Guard: there is the table that BuildGuard makes, too. This one then closes
	// what goes round it: see portsChain.
	Guard bool
	// Links: another plugin connects the pods. What is not of their own addresses is then
	// closed by their links, see Links.
	Links bool
	// Masquerade gives what pods send to outside the cluster the node's address.
	Masquerade bool
	// SourceCheck drops what has a pod's source and comes from elsewhere than where the
	// route to that pod leads. See sourceChain.
	SourceCheck bool
	// Bridge is the name of the bridge whose ports have the guard, which has checked the
	// sources of what comes by it. Empty: there is none.
	Bridge string
	// TunnelPort is the UDP port at which the node takes what is in a tunnel for
	// sent by pods of other nodes. Zero: there is none. See tunnelChain.
	TunnelPort uint16
	// Fragments is what the node has for fragments.
	Fragments FragmentMemory
	// MaxConnections is how many connections a pod may have begun that connection tracking
	// knows, of each family. Zero: as many as it likes. See connectionsChain.
	MaxConnections uint32
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

// AddrRangeElement is the element of a range of addresses.
func AddrRangeElement(addrs policy.AddrRange) Element {
	e := AddrElement(addrs.First)
	e.LastAddr = AddrElement(addrs.Last).Addr
	return e
}

// PrefixElement is the element of a prefix.
func PrefixElement(prefix netip.Prefix) Element {
	return AddrRangeElement(policy.AddrRange{First: prefix.Masked().Addr(), Last: netipx.PrefixLastIP(prefix)})
}

// EndpointElement is the element of an endpoint.
func EndpointElement(endpoint policy.Endpoint) Element {
	e := AddrElement(endpoint.Addr)
	e.Protocol, e.First = uint8(endpoint.Protocol), endpoint.Port
	return e
}

// PortRangeElement is the element of a range of ports.
func PortRangeElement(ports policy.PortRange) Element {
	return Element{Protocol: uint8(ports.Protocol), First: ports.First, Last: ports.Last}
}

// PortElement is the element of a port.
func PortElement(protocol policy.Protocol, port uint16) Element {
	return Element{Protocol: uint8(protocol), First: port}
}

// Size counts what a table holds.
type Size struct {
	Sets, Maps, Chains, Rules, Elements int
	// Orphans are addresses of containers whose pod is not known.
	Orphans int
}

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
	for _, f := range families {
		if set := t.Sets[orphansSet(f)]; set != nil {
			s.Orphans += len(set.Elements)
		}
	}
	for _, chain := range t.Chains {
		s.Chains++
		s.Rules += len(chain.Rules)
	}
	return s
}
