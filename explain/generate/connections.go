package generate

import (
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/policy"
)

// pairing is what connections have in common that the same rule lets pass: both ends, and the port.
type pairing struct {
	source, destination end
	protocol            policy.Protocol
	port                uint16
	icmpType            uint8
}

// connection is the connections of one pairing.
type connection struct {
	pairing
	// flows is how many there are of them, and tuples are the connections that these are about, each with how many
	// it stands for.
	flows  int
	tuples map[tuple]uint32
	// services are those that were asked for.
	services map[string]bool
}

// tuple is a connection as the kernel knows it.
type tuple struct {
	source, destination netip.AddrPort
	protocol            string
}

func tupleOf(f *flows.Flow) tuple {
	return tuple{netip.AddrPortFrom(f.Source.IP, f.Source.Port), netip.AddrPortFrom(f.Destination.IP, f.Destination.Port), f.Protocol}
}

// count is how many connections were seen.
func (c *connection) count() (n uint64) {
	for _, weight := range c.tuples {
		n += uint64(weight)
	}
	return n
}

// hasPort reports whether a rule can name the port: of TCP, UDP and SCTP.
func (p pairing) hasPort() bool {
	return p.port != 0 && (p.protocol == policy.TCP || p.protocol == policy.UDP || p.protocol == policy.SCTP)
}

// add takes a flow in, or counts why it needs no rule or is not understood.
func (g *generator) add(f *flows.Flow) {
	switch {
	case passed(f):
	case f.Verdict == flows.Denied || f.Verdict == flows.WouldAllow:
		g.report.leave(Denied)
		return
	default:
		g.report.leave(UnknownVerdict)
		return
	}
	p, reason := g.pairing(f)
	if reason == "" {
		reason = g.needless(p, f.Asked != nil)
	}
	if reason != "" {
		g.report.leave(reason)
		return
	}
	c := g.connections[p]
	if c == nil {
		c = &connection{pairing: p, tuples: map[tuple]uint32{}, services: map[string]bool{}}
		g.connections[p] = c
	}
	c.flows++
	at := tupleOf(f)
	c.tuples[at] = max(c.tuples[at], f.SampledOf, 1)
	if f.Asked != nil && f.Asked.Service != "" {
		c.services[f.Asked.Namespace+"/"+f.Asked.Service] = true
	}
}

// passed reports whether what a flow tells of has passed, also if staged policies would have denied it.
func passed(f *flows.Flow) bool { return f.Verdict == flows.Allowed || f.Verdict == flows.WouldDeny }

// noteSample notes that agents have told of a sample alone.
func (g *generator) noteSample(all []*flows.Flow) {
	if slices.ContainsFunc(all, func(f *flows.Flow) bool { return passed(f) && f.SampledOf > 1 }) {
		g.report.Missing = append(g.report.Missing, "connections of which agents have told a sample, as more began than they tell of: peers may be unseen")
	}
}

// pairing is what a flow is about, or why nobody can tell.
func (g *generator) pairing(f *flows.Flow) (p pairing, reason Reason) {
	if p.source, reason = g.end(&f.Source); reason != "" {
		return p, reason
	}
	if p.destination, reason = g.end(&f.Destination); reason != "" {
		return p, reason
	}
	if p.source.addr.Is4() != p.destination.addr.Is4() {
		return p, NoAddress
	}
	protocol, known := protocolOf(f.Protocol)
	if !known {
		return p, UnknownProtocol
	}
	p.protocol, p.port = protocol, f.Destination.Port
	if f.ICMPType != nil {
		p.icmpType = *f.ICMPType
	}
	return p, ""
}

// protocolOf reads a protocol as flows have it.
func protocolOf(text string) (policy.Protocol, bool) {
	for _, p := range []policy.Protocol{policy.TCP, policy.UDP, policy.SCTP, policy.ICMP, policy.ICMPv6} {
		if text == p.String() {
			return p, true
		}
	}
	number, err := strconv.ParseUint(text, 10, 8)
	return policy.Protocol(number), err == nil
}

// needless is why no rule is needed for a connection that has passed; empty: one is.
func (g *generator) needless(p pairing, asked bool) Reason {
	from, to := p.source, p.destination
	switch {
	case !(from.isPod() && g.writes(from.pod.Namespace)) && !(to.isPod() && g.writes(to.pod.Namespace)):
		return Elsewhere
	case from.isPod() && from.pod == to.pod && !asked:
		return Itself
	case onOwnNode(from, g.podOf(to.pod)):
		return OwnNode
	case g.options.Judge.AllowToNode && onOwnNode(to, g.podOf(from.pod)):
		return OwnNode
	}
	return ""
}

// onOwnNode reports whether an end is the node that a pod runs on.
func onOwnNode(e end, pod *corev1.Pod) bool {
	return pod != nil && e.node != "" && e.node == pod.Spec.NodeName
}
