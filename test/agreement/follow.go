package agreement

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// Follow is a packet that is sent after another one.
type Follow struct {
	Kind FollowKind
	// By is who reports, of OthersError. ICMPType is an error's message, Extensions the IPv6
	// extension headers that it has.
	By         *lab.Host
	ICMPType   uint8
	Extensions []policy.Protocol
}

// FollowKind is what a packet is of one that was sent before.
type FollowKind uint8

// The kinds.
const (
	More        FollowKind = iota // another packet of its sender, of the same flow
	Answer                        // what its receiver answers
	OwnError                      // an ICMP error of its receiver about it
	OthersError                   // an ICMP error of somebody else about it
)

func (k FollowKind) String() string {
	return [...]string{"more", "the answer", "its receiver's error", "another's error"}[k]
}

func (k FollowKind) reports() bool { return k == OwnError || k == OthersError }

// The sequence numbers of TCP's first segments that others follow, each way.
const (
	sequence       = 1_000
	answerSequence = 5_000
)

// sendAfter sends what is to be sent after packets, whether or not those have arrived.
func (c *Cluster) sendAfter(ctx context.Context, s policy.Snapshot, report Report) (Report, error) {
	var cases []Case
	var of []Result
	for _, r := range report {
		then := r.Then
		if len(then) > 0 && flowOf(r) == nil {
			then = then[:1] // which may begin a flow: the others would be of that
		}
		for _, f := range then {
			if one, ok := c.after(r, f); ok {
				cases, of = append(cases, one), append(of, Result{Begun: r, Of: flowOf(r), Follow: f.Kind})
			}
			// The node's own answers are tracked in the zone that they are sent in: the treatments
			// are of what it receives.
			ofZone := r.Treatment == OtherZone && r.Probe.To == &c.Node.Host
			if f.Kind == Answer && r.Probe.Arrived && !ofZone {
				r.Answered = true
			}
		}
	}
	return c.follow(ctx, s, cases, of)
}

// Resume sends more of the flows that have begun by an earlier report, and have been answered,
// both ways. Those that may not begin any more have been revoked by now, if flows are.
func (c *Cluster) Resume(ctx context.Context, s policy.Snapshot, earlier Report) (Report, error) {
	var cases []Case
	var of []Result
	for _, r := range earlier {
		if !r.Answered || r.Of != nil || !c.stillThere(r) {
			continue
		}
		verdict := policy.Judge(s, r.Seen, policy.JudgeOptions{AllowToNode: c.options.AllowToNode})
		r.Revoked = c.options.RevokedMark != 0 && (!r.Own && !verdict.At(random.Node) || r.Own && isOrphan(s, r.Seen.Dst))
		for _, kind := range []FollowKind{More, Answer} {
			if one, ok := c.after(r, Follow{Kind: kind}); ok {
				if one.Wire.Flags != 0 {
					one.Wire.Flags = lab.ACK
				}
				cases, of = append(cases, one), append(of, Result{Begun: r, Of: r, Follow: kind})
			}
		}
	}
	return c.follow(ctx, s, cases, of)
}

// isOrphan says whether a container of the node has an address, and its pod is not known: not even the node
// sends there, so that a flow of its own to it is cut as well.
func isOrphan(s policy.Snapshot, addr netip.Addr) bool {
	return len(policy.HolderOf(s, addr).Pods) == 0 && slices.ContainsFunc(s.Attachments, func(a policy.Attachment) bool { return slices.Contains(a.IPs, addr) })
}

// follow sends packets, each of which is of what its Result says.
func (c *Cluster) follow(ctx context.Context, s policy.Snapshot, cases []Case, of []Result) (Report, error) {
	var ready []Result // of those that send takes
	for i, one := range cases {
		if _, ok := c.prepare(s, one); ok {
			ready = append(ready, of[i])
		}
	}
	next := 0
	return c.send(ctx, s, cases, func(r *Result) {
		r.Begun, r.Of, r.Follow, r.Probe.Follows = ready[next].Begun, ready[next].Of, ready[next].Follow, true
		next++
	})
}

// flowOf is who has begun a flow that connection tracking knows; nil if that has not arrived,
// or is of none.
func flowOf(r *Result) *Result {
	if !r.Probe.Arrived || r.State != nft.New {
		return nil
	}
	return r
}

// after is a packet that follows another one: made of what that one's receiver has got, as a
// host would, or of what was sent if it has got nothing.
func (c *Cluster) after(r *Result, f Follow) (Case, bool) {
	sent := r.Probe.Probe
	sender, port := source(r.Probe.Received)
	if !sender.IsValid() {
		sender, port = sent.Packet.Src, sent.Wire.SrcPort
	}
	if !hasPorts(r.Protocol) {
		port = 0
	}
	one := Case{Packet: r.Packet, Wire: lab.Wire{SrcPort: sent.Wire.SrcPort}, Treatment: r.Treatment, From: sent.From, To: sent.To, Service: r.Service}
	if f.Kind == More {
		if r.Src == r.Dst {
			return one, false
		}
		if one.Protocol == policy.TCP {
			one.Wire.Flags, one.Wire.Seq = lab.SYN, sequence
			if r.Answered {
				one.Wire.Flags, one.Wire.Seq, one.Wire.Ack = lab.ACK, sequence+1, answerSequence+1
			}
		}
		return one, true
	}
	one.Src, one.Dst, one.HopLimit = r.Dst, r.Src, 64
	one.From, one.To, one.Service = sent.To, c.Lab.Owner(r.Src), netip.AddrPort{}
	if sender != r.Src {
		one.Service = netip.AddrPortFrom(sender, port)
	}
	if f.Kind.reports() {
		return c.reportOf(r, f, one)
	}
	one.Wire.SrcPort = sent.Packet.DstPort
	if r.Service.IsValid() {
		one.Wire.SrcPort = r.DstPort
	}
	switch one.Protocol {
	case policy.TCP:
		one.Wire.Flags, one.Wire.Seq, one.Wire.Ack = lab.SYN|lab.ACK, answerSequence, sequence+1
		one.DstPort = sent.Wire.SrcPort
	case policy.UDP, random.UDPLite:
		one.DstPort = sent.Wire.SrcPort
	case policy.ICMP, policy.ICMPv6:
		one.ICMPType = map[uint8]uint8{8: 0, 13: 14, 128: 129}[r.ICMPType]
		one.Wire.SrcPort = idOf(r.Probe.Received, sent.Wire.SrcPort)
	default:
		one.Wire.SrcPort = 0
	}
	return one, true
}

// reportOf is an ICMP error about a packet.
func (c *Cluster) reportOf(r *Result, f Follow, one Case) (Case, bool) {
	if f.Kind == OthersError {
		if one.From = f.By; one.From == r.Probe.From || one.From == r.Probe.To {
			return one, false
		}
		one.Src = one.From.IP(r.Src)
	}
	quoted := r.Probe.Received
	if quoted == nil {
		packets, err := r.Probe.Wire.Packets(r.Probe.Packet, r.Probe.Wire.SrcPort, nil)
		if err != nil || len(packets) != 1 {
			return one, false
		}
		quoted = packets[0]
	}
	one.Protocol, one.ICMPType, one.DstPort = policy.ICMP, f.ICMPType, 0
	if r.Src.Is6() {
		one.Protocol = policy.ICMPv6
	}
	one.Wire = lab.Wire{Payload: quoted}
	if r.Src.Is6() {
		one.Wire.Extensions = f.Extensions
	}
	if one.Service.IsValid() {
		one.Service = netip.AddrPortFrom(one.Service.Addr(), 0)
	}
	return one, one.Src.IsValid() && one.From != one.To
}

// idOf is the identifier of an ICMP message that has arrived, which NAT may have changed, or
// else the one that was sent.
func idOf(received []byte, sent uint16) uint16 {
	switch {
	case len(received) >= 28 && received[0]>>4 == 4:
		return binary.BigEndian.Uint16(received[24:])
	case len(received) >= 48 && received[0]>>4 == 6:
		return binary.BigEndian.Uint16(received[44:])
	}
	return sent
}

// hasPorts says whether a protocol has the ports where TCP has them.
func hasPorts(p policy.Protocol) bool {
	return p == policy.TCP || p == policy.UDP || p == policy.SCTP || p == random.UDPLite || p == random.DCCP
}

// stillThere says whether both ends of a flow are the hosts that they were.
func (c *Cluster) stillThere(r *Result) bool {
	return c.Lab.Owner(r.Src) == r.Probe.From && c.Lab.Owner(r.Dst) == r.Probe.To
}
