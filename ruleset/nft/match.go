package nft

import "github.com/podfence/podfence/policy/packet"

// Match is one of Loopback, InGroup, PacketType, CtState, Mark, Midstream, ICMP, ICMPv6,
// Authenticated, ICMPv6Error, Redirect, Fragment, Atomic, UpperLayer, NextHeader, HopLimit, MessageType,
// Elsewhere, DNAT, Begun, Unconfirmed, Lookup, Limit, Connections, Noted, OfFamily. The set is closed.
type Match interface {
	// String is the match as nft writes it.
	String() string
	match()
}

// Loopback matches packets on the loopback device: iifname "lo".
type Loopback struct{}

// InGroup matches packets that came in by a link of the group: iifgroup N.
type InGroup uint32

// PacketType matches packets by the kind of address that their frame was sent to: meta pkttype P.
type PacketType uint8

// The packet types, as the kernel numbers them (include/uapi/linux/if_packet.h). Host is for frames to the
// address of the link that they came in by or, on a bridge, to the bridge's own.
const (
	Host      PacketType = 0
	Broadcast PacketType = 1
	Multicast PacketType = 2
	otherHost PacketType = 3
)

// CtState matches the states of connection tracking in the mask.
type CtState uint8

// The states, as bits.
const (
	Established CtState = 1 << iota
	Related
	Invalid
	New
	Untracked // somebody's rule exempts it from connection tracking (NOTRACK)
)

// Mark matches flows whose conntrack mark has all of these bits: ct mark & M == M.
type Mark uint32

// Midstream matches packets of a protocol that begin no connection: TCP packets without SYN (tcp
// flags ! syn), and SCTP packets whose first chunk is not INIT (@th,96,8 != 0x1). If connection
// tracking does not know their connection any more, it still takes such packets for new
// (nf_conntrack_tcp_loose; an SCTP HEARTBEAT).
type Midstream packet.Protocol

// ICMPv6 matches ICMPv6: meta l4proto ipv6-icmp.
type ICMPv6 struct{}

// Authenticated matches packets with an authentication header (RFC 4302). Whatever comes after that
// header, the kernel takes it for the packet's upper layer: meta l4proto ah.
type Authenticated struct{}

// ICMPv6Error matches ICMPv6 that reports an error (RFC 4443 section 2.1):
// icmpv6 type < 128.
type ICMPv6Error struct{}

// Redirect matches ICMP's redirect: icmp type redirect.
type Redirect struct{}

// Fragment matches fragments of a family (ip frag-off & 16383 != 0; exthdr frag exists), or, with
// First, only those that begin a datagram (ip frag-off & 8191 == 0; frag frag-off 0). For IPv4,
// First also matches a datagram that is whole.
type Fragment struct{ V6, First bool }

// Atomic matches IPv6 that is whole in one fragment (RFC 6946): frag frag-off 0 frag
// more-fragments 0.
type Atomic struct{}

// UpperLayer matches packets that have 8 octets of an upper-layer header, which is the shortest
// header of all protocols that have ports or types: @th,56,8 >= 0x0.
type UpperLayer struct{}

// NextHeader matches packets in which Protocol comes right after the IPv6 header, or, with Not,
// those in which anything else does: ip6 nexthdr ipv6-icmp.
type NextHeader struct {
	Protocol packet.Protocol // hop-by-hop options, or ICMPv6
	Not      bool
}

// HopLimit matches the IPv6 hop limit: ip6 hoplimit N.
type HopLimit uint8

// MessageType matches the type of an ICMPv6 message: icmpv6 type T.
type MessageType uint8

// Elsewhere matches packets that came in by another link than the one that the route to their
// source leads to, and packets for which there is no such route: fib saddr . iif oif missing.
type Elsewhere struct{}

// DNAT matches packets of flows that destination NAT has led elsewhere, whoever made it do so: ct
// status dnat.
type DNAT struct{}

// Begun matches packets of a flow in the direction in which that has begun: ct direction original. A packet of which
// connection tracking knows no flow it does not match.
type Begun struct{}

// Lookup matches when the fields, concatenated, are in the set: ip saddr @set.
type Lookup struct {
	Fields []Field
	Set    string
	// Not makes it match when they are not in the set: ip saddr != @set. The packet must have the
	// fields even so.
	Not bool
}

// OfFamily matches packets of one family of addresses: meta nfproto ipv4, meta nfproto ipv6. It is for tables of
// family inet.
type OfFamily int

// Limit matches as long as packets with the same value of the field come at no more than a rate; with Over, it
// matches those that are beyond it.
// The set, a dynamic one, keeps account of the rate of each value:
// update @set { ip daddr limit rate N/second burst N packets }. If the set is full, Limit does
// not match.
type Limit struct {
	Field Field
	Set   string
	// PerSecond is the rate, and Burst is how many may come at once. They are numbers of packets
	// or, with Octets, of octets.
	PerSecond, Burst uint32
	Octets, Over     bool
}

// Unconfirmed matches the first packet of a connection, as long as that has not passed the node: ct
// status ! confirmed.
type Unconfirmed struct{}

// Connections matches when there are more connections with the same value of the field than the
// bound, including the packet's own. The set, a dynamic one, keeps account of the connections of
// each value: add @set { ip saddr ct count over N }. If the set is full, Connections does not
// match.
type Connections struct {
	Field Field
	Set   string
	Over  uint32
}

// Noted puts the fields, concatenated, into the set, a dynamic one: add @set { ip saddr }. It matches
// unless the set is full.
type Noted struct {
	Fields []Field
	Set    string
	// Count gives the element a counter, which counts this packet and those that a Lookup finds in the set:
	// add @set { ip saddr counter }.
	Count bool
	// Renew has the timeout of an element that is there begin anew: update @set { ip saddr }.
	Renew bool
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
func (InGroup) match()       {}
func (PacketType) match()    {}
func (CtState) match()       {}
func (Mark) match()          {}
func (Midstream) match()     {}
func (OfFamily) match()      {}
func (ICMPv6) match()        {}
func (Authenticated) match() {}
func (NextHeader) match()    {}
func (HopLimit) match()      {}
func (MessageType) match()   {}
func (Elsewhere) match()     {}
func (DNAT) match()          {}
func (Begun) match()         {}
func (Lookup) match()        {}
