package agreement_test

import (
	"math/rand"
	"net/netip"
	"slices"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// drawOptions are any that the agent can have with pods that are attached so. A round has the
// opposite of the one before, every second time: in two all options are on and off.
func drawOptions(seed int64, attach lab.Attach) ruleset.Options {
	r := rand.New(rand.NewSource(seed/2*3 + int64(attach)))
	on := func() bool { return (r.Intn(2) == 0) != (seed%2 == 0) }
	o := ruleset.Options{AllowToNode: on(), Reject: on(), Masquerade: on(), SourceCheck: on(), Guard: attach == lab.Guarded}
	if on() {
		o.TunnelPort = random.TunnelPort
	}
	if on() {
		o.RevokedMark = agreement.RevokedMark
	}
	if on() {
		o.MaxConnections = 60_000 // more than there ever are: test/semantics has fewer
	}
	if on() {
		o.LogGroup = agreement.LogGroup
	}
	if on() {
		o.LongRun = 1 + r.Intn(3)
	}
	if o.SourceCheck && o.Guard {
		o.Bridge = lab.Bridge
	}
	o.Fragments.V4.Octets, o.Fragments.V6.Octets = 1<<30, 1<<30 // more than are ever sent
	return o
}

// drawer draws cases of a cluster, whose flows do not meet.
type drawer struct {
	*rand.Rand
	c *agreement.Cluster
	s policy.Snapshot
	// near are ports where policies make a difference.
	near []uint16
	// flows are those that there are, whichever of the two has begun them.
	flows map[flow]bool
	// port is the source port of the last packet that others follow.
	port uint16
}

// flow is what connection tracking tells a flow by, where packets have no source port of
// their own.
type flow struct {
	a, b         netip.Addr
	protocol     policy.Protocol
	aPort, bPort uint16
}

func (d *drawer) in(n int) bool { return d.Intn(n) == 0 }

func one[T any](d *drawer, of ...T) T { return of[d.Intn(len(of))] }

// draw is a case, or none that can be sent.
func (d *drawer) draw() (drawn agreement.Case, ok bool) {
	p := random.Packet(d.Rand, d.s)
	if p.DstPort > 0 && len(d.near) > 0 && d.in(3) {
		p.DstPort = one(d, d.near...)
	}
	if away := one(d, slices.Concat(random.Outside, random.Metadata)...); d.in(8) && away.Is4() == p.Src.Is4() {
		p.Dst, p.Hairpin = away, false
	}
	drawn = agreement.Case{Packet: p, From: d.c.Lab.Owner(p.Src), To: d.c.Lab.Owner(p.Dst)}
	node := &d.c.Node.Host
	if p.Protocol == policy.ICMPv6 && slices.Contains(random.MulticastRouter, p.ICMPType) {
		return drawn, false // untracked or invalid, as the kernel's version is
	}
	if drawn.From == nil || drawn.To == nil || drawn.From == drawn.To && p.Src != p.Dst {
		return drawn, false
	}
	if p.HopByHop {
		drawn.Wire.Extensions = []policy.Protocol{0}
	} else if p.Extended {
		drawn.Wire.Extensions = []policy.Protocol{one[policy.Protocol](d, 43, policy.AH, 60)}
	}
	if drawn.From == node { // it sends as its stack has it
		drawn.Wire.Extensions, drawn.HopByHop, drawn.Extended, drawn.HopLimit = nil, false, false, 64
		d.follow(&drawn)
		return drawn, d.fresh(drawn)
	}
	if d.in(8) {
		d.toGroup(&drawn)
	}
	if others := d.others(drawn); d.in(10) && len(others) > 0 {
		drawn.From = one(d, others...)
	}
	if d.in(4) {
		drawn.Treatment = one(d, agreement.Treatments()...)
	}
	if drawn.Src == drawn.Dst {
		drawn.Treatment = agreement.NoTreatment // what arrives could as well be the node's error about it
	} else {
		d.wire(&drawn)
	}
	if drawn.Src != drawn.Dst && agreement.Translated(drawn) && d.in(5) && !random.OfLink(drawn.Dst) && agreement.InPodRange(drawn.Dst) {
		drawn.Service = netip.AddrPortFrom(agreement.Hairpin(drawn.Dst), drawn.DstPort)
	}
	d.follow(&drawn)
	return drawn, d.fresh(drawn)
}

// others are hosts that could send in the sender's name.
func (d *drawer) others(drawn agreement.Case) []*lab.Host {
	return slices.DeleteFunc(d.c.Lab.Hosts(), func(h *lab.Host) bool {
		return h == &d.c.Node.Host || h == drawn.From || h == drawn.To || !h.IP(drawn.Src).IsValid() || drawn.Src == linkLocal && h.Attach() == lab.Bridged
	})
}

// toGroup sends it to all on the link, or to a group of them, and as messages of the link
// are, or nearly.
func (d *drawer) toGroup(drawn *agreement.Case) {
	drawn.To, drawn.Input, drawn.Hairpin = &d.c.Node.Host, true, false
	if drawn.Src.Is4() {
		drawn.Dst = one(d, random.Groups4...)
		return
	}
	drawn.Dst = one(d, random.Groups6...)
	headers := drawn.Wire.Extensions // those of discovery it keeps: it is none then
	if drawn.Wire.Extensions = nil; d.in(2) {
		drawn.Wire.Extensions = headers
		drawn.Protocol, drawn.ICMPType, drawn.DstPort, drawn.HopLimit = policy.ICMPv6, one(d, random.NeighbourDiscovery...), 0, one[uint8](d, 255, 255, 254)
		return
	}
	drawn.Protocol, drawn.ICMPType, drawn.DstPort, drawn.HopLimit = policy.ICMPv6, one(d, random.MulticastListener...), 0, one[uint8](d, 1, 1, 2)
	if drawn.HopByHop, drawn.Extended = d.in(2), false; drawn.HopByHop {
		drawn.Wire.Extensions = []policy.Protocol{0}
	}
	if sources := []netip.Addr{drawn.Src, netip.IPv6Unspecified(), linkLocal}; drawn.From.Attach() == lab.Bridged {
		drawn.Src = one(d, sources[:2]...)
	} else {
		drawn.Src = one(d, sources...)
	}
}

// linkLocal is an address that any host might have. Bridged ones do not send listener discovery
// from it: a bridge that has heard a query from such an address (br_ip6_multicast_query) hands
// reports to who asks alone, and groups to who has reported, for minutes by its own clock. What
// arrives then is not a matter of the packet, which is all that is judged here.
// TestQueriesOfListeners sends one.
var linkLocal = netip.MustParseAddr("fe80::2")

// wire draws how it is sent.
func (d *drawer) wire(drawn *agreement.Case) {
	w := &drawn.Wire
	switch d.Intn(10) {
	case 0:
		if drawn.HopByHop { // it is for those on the way, and not cut up
			return
		}
		w.Fragments = one(d, lab.AllFragments()...)
		if drawn.Src.Is6() && d.in(3) {
			w.Extensions, drawn.Extended = []policy.Protocol{one[policy.Protocol](d, 43, policy.AH, 60)}, true
		}
	case 1:
		if drawn.Src.Is4() {
			w.Options = one(d, options...)
		}
	case 2:
		if d.c.Attach() != lab.Bridged { // a bridge hands frames of other types on as they are
			w.Wrap = one(d, lab.Tag0, lab.Tag5, lab.Service0, lab.Stacked0, lab.Double0, lab.PPPoE, lab.SNAP, lab.MPLS)
		}
	case 3:
		w.BadChecksum = lab.HasChecksum(drawn.Protocol) && !random.Untracked(drawn.Packet) && (drawn.Protocol != policy.ICMPv6 || drawn.To != &d.c.Node.Host)
	case 4, 5:
		switch drawn.Protocol {
		case policy.TCP:
			w.Flags = one[uint8](d, lab.SYN|lab.URG, lab.ACK, lab.ACK|lab.PSH, lab.SYN|lab.ACK, lab.RST, lab.RST|lab.ACK, lab.FIN|lab.ACK, lab.FIN|lab.PSH|lab.URG, lab.SYN|lab.FIN)
		case policy.SCTP:
			w.Heartbeat = true
		}
	case 6:
		if drawn.Protocol == policy.TCP || drawn.Protocol == policy.UDP || drawn.Protocol == policy.SCTP {
			w.SrcPort = one[uint16](d, 0, 0, 1, 53, 67, 80, 443, random.TunnelPort, 65535)
			w.ZeroPort = w.SrcPort == 0
		}
	}
}

// options are IPv4's: none, a route and times to be recorded, a router alert, security, and
// both kinds of source route (RFC 791 section 3.1, RFC 2113).
var options = [][]byte{
	{1, 1, 1, 0}, {7, 7, 4, 0, 0, 0, 0, 0}, {68, 8, 5, 0, 0, 0, 0, 0}, {148, 4, 0, 0}, {130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	{131, 7, 4, 203, 0, 113, 7, 0}, {137, 7, 4, 203, 0, 113, 7, 0},
}

// follow draws what comes after it, of plain packets that begin something.
func (d *drawer) follow(drawn *agreement.Case) {
	w := drawn.Wire
	plain := w.Fragments == lab.Uncut && w.Wrap == lab.Plain && len(w.Options)+len(w.Extensions) == 0 && w.Flags == 0 && !w.Heartbeat && w.SrcPort == 0 && !w.ZeroPort
	if !plain || !d.in(2) || !agreement.Translated(*drawn) || drawn.Input || drawn.Src == drawn.Dst || drawn.From != d.c.Lab.Owner(drawn.Src) {
		return
	}
	ports := slices.Contains([]policy.Protocol{policy.TCP, policy.UDP, policy.SCTP, random.UDPLite, random.DCCP}, drawn.Protocol)
	if ports && drawn.DstPort == 0 || drawn.ICMPType == 139 {
		return // nobody can answer from there; NAT does not know this message (icmpv6_manip_pkt)
	}
	kinds := []agreement.FollowKind{agreement.More, agreement.OwnError, agreement.OthersError}
	if drawn.Protocol != policy.SCTP && drawn.Protocol != random.DCCP && (drawn.Protocol != policy.ICMP && drawn.Protocol != policy.ICMPv6 || slices.Contains([]uint8{8, 13, 128}, drawn.ICMPType)) {
		kinds = append(kinds, agreement.Answer, agreement.Answer)
	}
	if d.port++; d.port < firstFollowed || d.port > lastFollowed {
		d.port = firstFollowed
	}
	drawn.Wire.SrcPort = d.port
	for range 1 + d.Intn(3) {
		f := agreement.Follow{Kind: one(d, kinds...), ICMPType: one[uint8](d, 3, 4, 5, 11, 12)}
		if drawn.Src.Is6() {
			f.ICMPType = one[uint8](d, 1, 2, 3, 4, 100, 127)
			f.Extensions = one(d, nil, nil, []policy.Protocol{one[policy.Protocol](d, 0, 43, policy.AH, 60)})
		}
		if f.Kind == agreement.OthersError {
			f.By = one(d, slices.DeleteFunc(d.c.Lab.Hosts(), func(h *lab.Host) bool { return h == &d.c.Node.Host })...)
		}
		drawn.Then = append(drawn.Then, f)
	}
}

// The source ports of packets that others follow: above the lab's, and above those of most
// hosts' programs.
const (
	firstFollowed = 40_000
	lastFollowed  = 60_000
)

// fresh says whether it is of no flow that there is, nor what it makes others send, and notes
// all of these.
func (d *drawer) fresh(drawn agreement.Case) bool {
	f := flow{drawn.Src, drawn.Dst, drawn.Protocol, drawn.Wire.SrcPort, drawn.DstPort}
	var all []flow
	switch drawn.Protocol {
	case policy.ICMP, policy.ICMPv6: // each has an identifier of its own
	case policy.TCP, policy.UDP, policy.SCTP:
		if f.aPort != 0 || drawn.Wire.ZeroPort {
			all = []flow{f}
		}
	default:
		all = d.portless(drawn)
	}
	fresh := true
	for _, f := range all {
		back := flow{f.b, f.a, f.protocol, f.bPort, f.aPort}
		fresh = fresh && !d.flows[f] && !d.flows[back]
	}
	for _, f := range all {
		d.flows[f] = true
	}
	return fresh
}

// portless are the flows that it may be of, of a protocol that connection tracking finds no
// ports in, or whose ports this test has no say in. All of the node's addresses are one here,
// the zero one.
//
// Where NAT gives two such flows the node's address, or one and the node has a flow of its own
// with that host, the answers to both would look the same. NAT has no port to tell them apart by
// (nf_nat_l4proto_unique_tuple), so connection tracking drops the packet that comes later
// (nf_ct_resolve_clash_harder), with or without podfence: TestFlowsWithoutPortsClash. Which one
// that is, depends on which of them policies let pass, and on who has been faster. So of those
// that may clash, one alone is sent.
func (d *drawer) portless(drawn agreement.Case) (all []flow) {
	ends := func(src, dst netip.Addr) {
		all = append(all, flow{a: src, b: dst, protocol: drawn.Protocol})
		if drawn.Treatment == agreement.SourceNAT || d.c.Options().Masquerade {
			all = append(all, flow{b: dst, protocol: drawn.Protocol})
		}
	}
	src, dst := unlessOwn(drawn.Src), unlessOwn(drawn.Dst)
	ends(src, dst)
	// The answer to a packet that has not arrived begins a flow itself, with an address that
	// NAT gives it.
	if slices.ContainsFunc(drawn.Then, func(f agreement.Follow) bool { return f.Kind == agreement.Answer }) {
		ends(dst, src)
	}
	return all
}

// unlessOwn is an address, or the zero one in place of the node's.
func unlessOwn(addr netip.Addr) netip.Addr {
	if slices.Contains(random.OwnAddrs, addr) {
		return netip.Addr{}
	}
	return addr
}
