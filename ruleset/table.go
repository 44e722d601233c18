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
