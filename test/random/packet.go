package random

import (
	"math/rand"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// IP protocols that no policy has a name for.
const (
	DCCP    policy.Protocol = 33
	GRE     policy.Protocol = 47
	ESP     policy.Protocol = 50
	UDPLite policy.Protocol = 136
)

// The addresses that mean more than one host, or are of a link alone: of all hosts on it, of
// its routers, of whoever has joined.
var (
	Groups4 = addrs("224.0.0.1", "224.0.0.251", "239.1.1.1", "255.255.255.255")
	Groups6 = addrs("ff02::1", "ff02::2", "ff02::fb", "ff05::2", "ff02::1:ff00:1", "fe80::1")
)

// Metadata is where clouds serve what a node is to know of itself: a link-local address that
// is routed all the same.
var Metadata = addrs("169.254.169.254")

// OfLink says whether an address is of a link, or of more than one host: no router takes a
// packet on to it.
func OfLink(addr netip.Addr) bool {
	return slices.Contains(Groups4, addr) || addr.Is6() && (addr.IsMulticast() || addr.IsLinkLocalUnicast())
}

// Packet is one between any two of the cluster's and the outside's addresses,
// of one family.
func Packet(r *rand.Rand, s policy.Snapshot) policy.Packet {
	pods, others := Addresses(s)
	all := append(others, Metadata...)
	for range 4 { // most packets are between pods
		all = append(all, pods...)
	}
	p := policy.Packet{Src: pick(r, all), Dst: pick(r, all), HopLimit: 64}
	for p.Dst.Is4() != p.Src.Is4() {
		p.Dst = pick(r, all)
	}
	p.Hairpin = p.Src == p.Dst
	p.Protocol = pick(r, []policy.Protocol{policy.TCP, policy.TCP, policy.TCP, policy.UDP, policy.UDP, policy.UDP, policy.SCTP, policy.ICMP, policy.ICMP, GRE, ESP, UDPLite, DCCP})
	switch p.Protocol {
	case policy.TCP, policy.UDP, policy.SCTP, UDPLite, DCCP:
		p.DstPort = uint16(pick(r, numbers)) + uint16(r.Intn(3))
		if maybe(r, 10) {
			p.DstPort = pick(r, OddPorts)
		}
	case policy.ICMP:
		p.ICMPType = message(r, 8)
		if !p.Src.Is4() {
			p.Protocol, p.ICMPType = policy.ICMPv6, message(r, 128)
			if maybe(r, 4) {
				p.ICMPType, p.HopLimit = pick(r, NeighbourDiscovery), pick(r, []uint8{254, 255})
			}
		}
	}
	if maybe(r, 10) {
		p.HopLimit = pick(r, []uint8{2, 63, 65, 254, 255})
	}
	if p.Src.Is6() && maybe(r, 12) {
		if p.HopByHop = maybe(r, 2); !p.HopByHop {
			p.Extended = true
		}
	}
	return p
}

// OddPorts are those that no program has by default, or none but a node's: none, the tunnel's
// between nodes, the last.
var OddPorts = []uint16{0, 1, TunnelPort, 65535}

// TunnelPort is the UDP port that nodes have their tunnel at.
const TunnelPort = 8472

// message is an ICMP type: mostly the request that is given, or any.
func message(r *rand.Rand, request uint8) uint8 {
	switch r.Intn(4) {
	case 0:
		return uint8(r.Intn(256))
	case 1: // those that there are programs for
		return uint8(r.Intn(20)) + request&128
	}
	return request
}

// Begins says whether a packet, sent alone, begins a flow, for connection tracking: of ICMP,
// that are requests alone (nf_conntrack_icmp_packet, nf_conntrack_icmpv6_packet).
func Begins(p policy.Packet) bool {
	switch p.Protocol {
	case policy.ICMP:
		return slices.Contains([]uint8{8, 13, 15, 17}, p.ICMPType)
	case policy.ICMPv6:
		return p.ICMPType == 128 || p.ICMPType == 139
	}
	return true
}

// Untracked says whether connection tracking leaves a packet alone, and so does NAT
// (nf_conntrack_icmpv6_error).
func Untracked(p policy.Packet) bool {
	return p.Protocol == policy.ICMPv6 && (slices.Contains(NeighbourDiscovery, p.ICMPType) && p.ICMPType != redirect || slices.Contains(MulticastListener, p.ICMPType))
}

// redirect is the ICMPv6 type of which connection tracking looks for the flow that it quotes.
const redirect = 137

// Hook is where Node's kernel sees a packet: forward, or input if it is for
// the node itself. It does not see what the node sends, and what the cluster
// does not say is the node's, nobody can tell.
func Hook(s policy.Snapshot, p policy.Packet) (hook nft.HookPoint, seen bool) {
	own := slices.Contains(OwnAddrs, p.Dst)
	switch {
	case slices.Contains(OwnAddrs, p.Src), own && !Listed(s, p.Dst):
		return 0, false
	case own:
		return nft.Input, true
	}
	return nft.Forward, true
}

// Listed reports whether the cluster says that an address is one of Node's own.
func Listed(s policy.Snapshot, addr netip.Addr) bool {
	return slices.ContainsFunc(s.Nodes, func(n *corev1.Node) bool {
		return n.Name == Node && slices.ContainsFunc(n.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Address == addr.String() })
	})
}
