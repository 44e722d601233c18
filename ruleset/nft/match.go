package nft

import "github.com/podfence/podfence/policy/packet"

// Match is one of Loopback, InGroup, PacketType, CtState, Mark, Midstream, ICMPv6,
// Authenticated, ICMPv6Error, Redirect, Fragment, Atomic, UpperLayer, NextHeader, HopLimit, MessageType,
// Elsewhere, DNAT, Unconfirmed, Lookup, Limit, Connections, Noted. The set is closed.
type Match interface {
	// String is the match as nft writes it.
	String() string
	match()
}

// Loopback matches packets on the loopback device: iifname "lo".
type Loopback struct{}

// InGroup matches packets that came in by a link of the group: iifgroup N.
type InGroup uint32

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
type Midstream packet.Protocol

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
	Protocol packet.Protocol // hop-by-hop options, or ICMPv6
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
func (InGroup) match()       {}
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
