package agreement

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// Case is a packet to check.
type Case struct {
	// Packet is the packet as its sender sends it, but for Dst and DstPort:
	// those are what destination NAT in the node makes of them.
	policy.Packet
	// Service is where the sender addresses it, if not to Dst. A packet to its
	// sender's own address gets its Hairpin.
	Service netip.AddrPort
	// From and To are the hosts, where they are not the owners of Src and Dst.
	From, To *lab.Host
	// Input says that the node takes the packet in although Dst is not one of
	// its addresses, such as multicast.
	Input bool
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
	Hook ruleset.HookPoint
	// Own says that it is the node's own packet, which no hook sees: the table
	// has no say.
	Own bool

	// Verdict is Judge's, and Judged what it means at this node.
	Verdict policy.Verdict
	Judged  bool
	// Trace is its way through the table, and Traced whether it passes.
	Trace  ruleset.Trace
	Traced bool
	// Probe is the real packet's fate; Probe.Arrived whether it passed.
	Probe lab.Result
}

// Agree says whether all three say the same.
func (r Result) Agree() bool {
	return r.Judged == r.Probe.Arrived && (r.Own || r.Traced == r.Judged)
}

func (r Result) String() string {
	where := r.Hook.String()
	if r.Own {
		where = "no hook"
	}
	return fmt.Sprintf("%s (%s, hop limit %d)\n  judged  %-5t %s\n  traced  %-5t %s\n  arrived %-5t sent %d times, seen at %v",
		r.Seen, where, r.Seen.HopLimit, r.Judged, r.Verdict, r.Traced, strings.ReplaceAll(r.Trace.String(), "\n", "\n                "),
		r.Probe.Arrived, r.Probe.Sent, r.Probe.At)
}

// Report are the results of a Check, in the order of the cases, without those
// that the node has no part in.
type Report []Result

// Disagreements are the results where the three differ.
func (r Report) Disagreements() Report {
	return slices.DeleteFunc(slices.Clone(r), Result.Agree)
}

// Count counts the packets that were to pass, and those that were not.
func (r Report) Count() (allowed, denied int) {
	for _, result := range r {
		if result.Judged {
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

// Check judges packets by the snapshot, traces them through the table, and
// sends them. It does not change what the node enforces: the snapshot is what
// the node should be enforcing by now.
func (c *Cluster) Check(ctx context.Context, s policy.Snapshot, cases []Case) (Report, error) {
	var report Report
	var probes []lab.Probe
	for _, one := range cases {
		result, probe, ok := c.prepare(s, one)
		if !ok {
			continue
		}
		result.Verdict = policy.Judge(s, result.Seen, policy.JudgeOptions{AllowToNode: c.options.AllowToNode})
		result.Judged = result.Verdict.At(random.Node)
		state := ruleset.New
		if result.Seen.ReportsError() {
			// It quotes no packet. Judge speaks of what may begin, so it has something to
			// say only of those that may begin nothing.
			if state = ruleset.Invalid; result.Judged {
				continue
			}
		}
		if !result.Own {
			result.Trace = c.table.Trace(result.Hook, ruleset.TracePacket{Packet: result.Seen, State: state})
			result.Traced = result.Trace.Verdict == ruleset.Accept
		}
		probe.Expect = result.Judged
		report, probes = append(report, result), append(probes, probe)
	}
	probed, err := c.Lab.Probe(ctx, probes)
	if err != nil {
		return nil, err
	}
	for i := range report {
		report[i].Probe = probed[i]
	}
	return report, nil
}

// prepare works out how to send a packet and what the node's hook sees of it.
// It fails for those that the node has no part in, or that the lab has no
// sender or receiver for.
func (c *Cluster) prepare(s policy.Snapshot, one Case) (Result, lab.Probe, bool) {
	r := Result{Case: one, Seen: one.Packet}
	probe := lab.Probe{From: one.From, To: one.To, Packet: one.Packet}
	if probe.From == nil {
		probe.From = c.Lab.Owner(one.Src)
	}
	if probe.To == nil && !one.Dst.IsMulticast() {
		probe.To = c.Lab.Owner(one.Dst)
	}
	var seen bool
	if r.Hook, seen = random.Hook(s, one.Packet); one.Input {
		r.Hook, seen = ruleset.Input, true
	}
	if !seen && c.isOwn(s, one.Src) && !c.isOwn(s, one.Dst) {
		r.Own, seen = true, true
	}
	if !seen || probe.From == nil || probe.To == nil && !one.Dst.IsMulticast() {
		return r, probe, false
	}
	if one.Service.IsValid() {
		probe.Packet.Dst, probe.Packet.DstPort = one.Service.Addr(), one.Service.Port()
	} else if one.Src == one.Dst {
		// No Service leads there; or what arrives could as well be the
		// rejection, which quotes the packet to the same host.
		if !inPodRange(one.Dst) || untracked(one.Packet) || c.options.Reject {
			return r, probe, false
		}
		probe.Packet.Dst, r.Seen.Hairpin = Hairpin(one.Dst), true
	}
	if one.Src != one.Dst && probe.From == probe.To {
		return r, probe, false // it does not leave its host
	}
	if r.Seen.HopLimit == 0 {
		r.Seen.HopLimit = 64
	}
	// A router lowers the hop limit before its forward hook, and forwards
	// nothing that it would lower to 0; a bridge does neither.
	if r.Hook == ruleset.Forward && !r.Own && !c.bridged(probe.From, probe.To) && !one.Dst.IsMulticast() {
		r.Seen.HopLimit--
	}
	// A redirect that is about no known flow is invalid to connection tracking
	// (nf_conntrack_icmpv6_redirect); Judge speaks of what may begin.
	if r.Seen.Protocol == policy.ICMPv6 && r.Seen.ICMPType == redirect {
		return r, probe, false
	}
	return r, probe, r.Seen.HopLimit > 0
}

// redirect is the ICMPv6 type.
const redirect = 137

// untracked reports whether connection tracking, and so NAT, leaves a packet
// alone.
func untracked(p policy.Packet) bool {
	return p.Protocol == policy.ICMPv6 && (slices.Contains(random.NeighbourDiscovery, p.ICMPType) || slices.Contains(random.MulticastListener, p.ICMPType))
}

// isOwn reports whether an address is known to be the node's own.
func (c *Cluster) isOwn(s policy.Snapshot, addr netip.Addr) bool {
	return slices.Contains(random.OwnAddrs, addr) && random.Listed(s, addr)
}
