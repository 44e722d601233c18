package nft

import "github.com/podfence/podfence/policy/packet"

// Examples are matches of every type. They are for tests of code that tells the types apart: it
// must know all of them.
func Examples() []Match {
	return []Match{
		Loopback{}, InGroup(1), Host, Broadcast, Multicast, Established, New | Invalid, Mark(1),
		Midstream(packet.TCP), Midstream(packet.SCTP), ICMPv6{}, Authenticated{}, ICMPv6Error{}, Redirect{},
		Fragment{}, Fragment{First: true}, Fragment{V6: true}, Fragment{V6: true, First: true}, Atomic{}, UpperLayer{},
		NextHeader{}, NextHeader{Protocol: packet.ICMPv6, Not: true}, HopLimit(1), MessageType(135), Elsewhere{}, DNAT{}, Begun{},
		Lookup{Fields: []Field{SrcAddr4}, Set: "addrs"}, Lookup{Fields: []Field{SrcAddr4}, Set: "addrs", Not: true},
		Limit{Field: SrcAddr4, Set: "rates", PerSecond: 1, Burst: 1}, Limit{Field: SrcAddr4, Set: "rates", PerSecond: 1, Burst: 1, Octets: true},
		Limit{Field: SrcAddr4, Set: "rates", PerSecond: 1, Burst: 1, Over: true}, OfFamily(4), OfFamily(6),
		Unconfirmed{}, Connections{Field: SrcAddr4, Set: "connections", Over: 1}, Noted{Fields: []Field{SrcAddr4}, Set: "noted"}, Noted{Fields: []Field{SrcAddr4, DstAddr4}, Set: "noted", Count: true}, Noted{Fields: []Field{SrcAddr4}, Set: "noted", Renew: true},
	}
}
