package agreement

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// Case is a packet to check, with what is sent after it.
type Case struct {
	// Packet is the packet as its sender sends it, but for Dst and DstPort:
	// those are what destination NAT in the node makes of them.
	policy.Packet
	// Service is where the sender addresses it, if not to Dst. A packet to its
	// sender's own address gets its Hairpin.
	Service netip.AddrPort
	// As is what it comes from for its receiver, where the test has rules that see to that.
	As netip.Addr
	// From and To are the hosts, where they are not the owners of Src and Dst.
	From, To *lab.Host
	// Input says that the node takes the packet in although Dst is not one of
	// its addresses, such as multicast.
	Input bool
	// Wire is how it is sent, Treatment what others' rules do with it at the node, on
	// which its traffic class depends.
	Wire      lab.Wire
	Treatment Treatment
	// Then is what is sent of its flow, or about it, when it has arrived, or might have.
	Then []Follow
}

// Cases are packets with nothing special to them.
func Cases(packets []policy.Packet) []Case {
	cases := make([]Case, len(packets))
	for i, p := range packets {
		cases[i] = Case{Packet: p}
	}
	return cases
}

// Result is what the three say of a packet.
type Result struct {
	Case
	// Seen is the packet as the hook sees it, and Hook which one that is.
	Seen policy.Packet
	Hook nft.HookPoint
	// Own says that it is the node's own packet, which no hook sees: the table
	// has no say.
	Own bool
	// State is what connection tracking takes it for; Midstream: if that is new, it begins no
	// connection all the same.
	State     nft.CtState
	Midstream bool
	// Begun is the packet that this one was sent after, and Follow what it is of it; nil if
	// none was. Of is the same, if that packet has begun a flow; else nil.
	Begun, Of *Result
	Follow    FollowKind
	// Answered: somebody has answered in the flow that this packet has begun. Revoked: the
	// flow must have been revoked.
	Answered, Revoked bool

	// Verdict is Judge's, and Judged what it means at this node for a packet of this State.
	// Why says what decides, if that is not the verdict.
	Verdict policy.Verdict
	Judged  bool
	Why     string
	// InForce is whether it would pass with all policies in force, by the same judge; InForceKnown: that can be told.
	InForce, InForceKnown bool
	// Refused is why the node's stack, or its connection tracking, lets no such packet pass,
	// whatever any table says; empty if it does.
	Refused string
	// Trace is its way through the tables, and Traced whether it passes.
	Trace  nft.Trace
	Traced bool
	// ReadBack is what the rules say that the kernel has, where that is not what Trace says; empty if
	// it is the same.
	ReadBack string
	// Sources are what it may come from, to its receiver: one address, or if it is masqueraded
	// one of the node's. None: nobody looks.
	Sources []netip.Addr
	// Probe is the real packet's fate; Probe.Arrived whether it passed.
	Probe lab.Result
}

// Agree says whether all say the same.
func (r Result) Agree() bool {
	if r.ReadBack != "" {
		return false
	}
	if r.Refused != "" {
		return !r.Probe.Arrived
	}
	return r.Judged == r.Probe.Arrived && (r.Own || r.Traced == r.Judged) && r.rightSource()
}

// rightSource says whether the packet, if it has arrived, has come from where it should.
func (r Result) rightSource() bool {
	from, _ := source(r.Probe.Received)
	return !from.IsValid() || r.Sources == nil || slices.Contains(r.Sources, from)
}

// source is who sent a packet, and from which port, if it has such.
func source(packet []byte) (addr netip.Addr, port uint16) {
	switch {
	case len(packet) >= 24 && packet[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(packet[12:16])), binary.BigEndian.Uint16(packet[4*(packet[0]&0xf):])
	case len(packet) >= 42 && packet[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(packet[8:24])), binary.BigEndian.Uint16(packet[40:])
	}
	return netip.Addr{}, 0
}

func (r Result) String() string {
	where := r.Hook.String()
	if r.Own {
		where = "no hook"
	}
	how := r.Wire.String()
	if r.Treatment != NoTreatment {
		how += ", " + r.Treatment.String()
	}
	if r.Service.IsValid() {
		how += ", by " + r.Service.String()
	}
	if r.Of != nil {
		how += fmt.Sprintf(", %s of %s", r.Follow, r.Of.Seen)
	} else if r.Begun != nil {
		how += fmt.Sprintf(", %s of %s, which has begun no flow", r.Follow, r.Begun.Seen)
	}
	from, _ := source(r.Probe.Received)
	return fmt.Sprintf("%s (%s, %s, hop limit %d)%s\n  sent by %v to %v%s\n  judged  %-5t %s; %s\n  traced  %-5t %s%s\n  arrived %-5t sent %d times, seen at %v, from %v, want %v",
		r.Seen, where, stateName(r.State), r.Seen.HopLimit, how, r.Probe.From, r.Probe.To, reason("; it cannot pass: ", r.Refused),
		r.Judged, r.Verdict, r.Why, r.Traced, strings.ReplaceAll(r.Trace.String(), "\n", "\n                "), reason("\n  but the kernel's rules say ", r.ReadBack),
		r.Probe.Arrived, r.Probe.Sent, r.Probe.At, from, r.Sources)
}

func reason(before, text string) string {
	if text == "" {
		return ""
	}
	return before + text
}

func stateName(s nft.CtState) string {
	return map[nft.CtState]string{
		nft.New: "new", nft.Established: "established", nft.Related: "related", nft.Invalid: "invalid", nft.Untracked: "untracked",
	}[s]
}

// Report are the results of a Check, in the order of the cases, and then of what was sent
// after them, without those that the node has no part in.
type Report []*Result

// Disagreements are the results where the three differ.
func (r Report) Disagreements() Report {
	return slices.DeleteFunc(slices.Clone(r), func(result *Result) bool { return result.Agree() })
}

// Count counts the packets that were to pass, and those that were not.
func (r Report) Count() (allowed, denied int) {
	for _, result := range r {
		if result.Judged && result.Refused == "" {
			allowed++
		} else {
			denied++
		}
	}
	return allowed, denied
}

func (r Report) String() string {
	texts := make([]string, len(r))
	for i, result := range r {
		texts[i] = result.String()
	}
	return strings.Join(texts, "\n")
}

// Check judges packets by the snapshot, traces them through the tables, and
// sends them; then what follows them. It does not change what the node enforces: the
// snapshot is what the node should be enforcing by now.
func (c *Cluster) Check(ctx context.Context, s policy.Snapshot, cases []Case) (Report, error) {
	first, err := c.send(ctx, s, cases, func(*Result) {})
	if err != nil {
		return nil, err
	}
	then, err := c.sendAfter(ctx, s, first)
	return append(first, then...), err
}

// send checks packets, each of which is made ready by a function first.
func (c *Cluster) send(ctx context.Context, s policy.Snapshot, cases []Case, ready func(*Result)) (Report, error) {
	var report Report
	for _, one := range cases {
		r, ok := c.prepare(s, one)
		if !ok {
			continue
		}
		ready(r)
		c.track(r)
		c.judge(s, r)
		r.InForce, r.InForceKnown = c.judgeInForce(s, r)
		if r.Refused = c.refused(r); !r.Own {
			r.Trace = c.trace(r)
			r.Traced = r.Trace.Verdict == nft.Accept
		}
		r.Probe.Expect = r.Judged && r.Refused == ""
		report = append(report, r)
	}
	probes := make([]lab.Probe, len(report))
	for i, r := range report {
		probes[i] = r.Probe.Probe
	}
	if c.told != nil && c.options.LogGroup != 0 {
		c.told.take() // what was told of others
		if err := c.forgetTold(); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	probed, err := c.Lab.Probe(ctx, probes)
	if err != nil {
		return nil, err
	}
	for i := range report {
		report[i].Probe = probed[i]
	}
	compared, err := c.checkTold(report, time.Since(began))
	c.Told += compared
	return report, err
}

// prepare works out how to send a packet and what the node's hook sees of it.
// It fails for those that the node has no part in, or that the lab has no
// sender or receiver for.
func (c *Cluster) prepare(s policy.Snapshot, one Case) (*Result, bool) {
	r := &Result{Case: one, Seen: one.Packet}
	probe := &r.Probe.Probe
	*probe = lab.Probe{From: one.From, To: one.To, Packet: one.Packet, Wire: one.Wire}
	probe.Wire.TrafficClass = one.Treatment.trafficClass()
	if len(one.Then) > 0 && one.Protocol == policy.TCP {
		probe.Wire.Seq = sequence
	}
	if probe.From == nil {
		probe.From = c.Lab.Owner(one.Src)
	}
	if probe.To == nil && !one.Dst.IsMulticast() {
		probe.To = c.Lab.Owner(one.Dst)
	}
	var seen bool
	if r.Hook, seen = random.Hook(s, one.Packet); one.Input {
		// Where a pod reaches its node always, it must be known which node that is.
		r.Hook, seen = nft.Input, !c.options.AllowToNode || c.isOwn(s, random.NodeAddrs[0])
	}
	if !seen && c.isOwn(s, one.Src) && !c.isOwn(s, one.Dst) {
		r.Own, seen = true, true
	}
	if !seen || probe.From == nil || probe.To == nil && !one.Dst.IsMulticast() {
		return nil, false
	}
	if one.Service.IsValid() {
		probe.Packet.Dst, probe.Packet.DstPort = one.Service.Addr(), one.Service.Port()
	} else if one.Src == one.Dst {
		// No Service leads there; or what arrives could as well be the
		// rejection, which quotes the packet to the same host.
		if !InPodRange(one.Dst) || !Translated(r.Case) || c.options.Reject {
			return nil, false
		}
		probe.Packet.Dst, r.Seen.Hairpin = Hairpin(one.Dst), true
	}
	if one.Src != one.Dst && probe.From == probe.To {
		return nil, false // it does not leave its host
	}
	if slices.Contains(one.Wire.Extensions, policy.AH) {
		// nftables reads no further than an authentication header (nf_tables_ipv6.h). Connection
		// tracking does.
		r.Seen.Protocol, r.Seen.DstPort, r.Seen.ICMPType = policy.AH, 0, 0
	}
	if r.Seen.HopLimit == 0 {
		r.Seen.HopLimit = 64
	}
	// A router lowers the hop limit before its forward hook; a bridge does not.
	if c.routed(r) {
		r.Seen.HopLimit--
	}
	return r, true
}

// routed says whether the node lowers the hop limit of a packet. A bridge does not, of which
// br_netfilter has changed the destination to somebody at another port, or the same.
func (c *Cluster) routed(r *Result) bool {
	from, to := r.Probe.From, r.Probe.To
	if r.Hook != nft.Forward || r.Own || r.Dst.IsMulticast() || c.bridged(from, to) {
		return false
	}
	return !(c.onBridge(from) && c.onBridge(to) && r.Probe.Packet.Dst != r.Dst)
}

// Translated says whether NAT gives a packet other addresses: it does so to what begins a
// flow, as far as connection tracking can tell.
func Translated(one Case) bool {
	state, _ := first(one)
	return state == nft.New
}

// isOwn reports whether an address is known to be the node's own.
func (c *Cluster) isOwn(s policy.Snapshot, addr netip.Addr) bool {
	return slices.Contains(random.OwnAddrs, addr) && random.Listed(s, addr)
}
