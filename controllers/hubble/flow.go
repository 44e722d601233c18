package hubble

import (
	"fmt"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/podfence/podfence/api/flows"
)

// The types of Cilium's events that flows are told as, and the subtypes of a trace. Cilium has them in
// pkg/monitor/api, which is not part of its API.
const (
	eventDrop          = 1
	eventTrace         = 4
	eventPolicyVerdict = 5

	traceToEndpoint = 0
	traceToStack    = 3
)

// What a policy verdict says of how its rule has matched.
const (
	matchNone = 0
	matchL3L4 = 2
)

// reasons are Hubble's that are nearest to podfence's.
var reasons = map[flows.Reason]flowpb.DropReason{
	flows.DefaultDeny:        flowpb.DropReason_POLICY_DENIED,
	flows.ByRule:             flowpb.DropReason_POLICY_DENY,
	flows.UnknownPod:         flowpb.DropReason_NO_CONFIGURATION_AVAILABLE_TO_PERFORM_POLICY_DECISION,
	flows.Invalid:            flowpb.DropReason_CT_TRUNCATED_OR_INVALID_HEADER,
	flows.BeginsNoConnection: flowpb.DropReason_UNKNOWN_CONNECTION_TRACKING_STATE,
	flows.Revoked:            flowpb.DropReason_POLICY_DENIED,
	flows.Spoofed:            flowpb.DropReason_INVALID_SOURCE_IP,
	flows.NotANode:           flowpb.DropReason_ENCAPSULATION_TRAFFIC_IS_PROHIBITED,
	flows.TooMany:            flowpb.DropReason_DROP_RATE_LIMITED,
	flows.Changed:            flowpb.DropReason_POLICY_DENIED,
}

// converter says podfence's flows in Hubble's words. It does not change, so that any number of goroutines
// may use it.
type converter struct {
	node, version string
	// space is what the flows' UUIDs are made from. It is another one for each start of the agent, as
	// the flows' numbers begin anew.
	space uuid.UUID
}

// newConverter returns a converter for the agent of this node, of this version.
func newConverter(node, version string) *converter {
	return &converter{node: node, version: version, space: uuid.New()}
}

// events are what the flow with this number is in Hubble: one event, or two where policies have decided.
// Cilium's agent, too, tells of a policy's verdict, and then of the packet that was dropped or went on.
// hubble observe --print-policy-names reads the first, and Hubble's UI draws the second. They belong to the
// caller. What would be denied with staged policies in force is a policy's verdict alone.
func (c *converter) events(f *flows.Flow, number uint64) []*flowpb.Flow {
	switch f.Verdict {
	case flows.WouldDeny:
		return []*flowpb.Flow{c.verdict(f, number)} // the packet itself passes, and nobody has told of it
	case flows.WouldAllow:
		return nil // Hubble has no word for it; the denial is told
	}
	packet := c.common(f, number, "packet")
	if f.Verdict == flows.Denied {
		packet.EventType = &flowpb.CiliumEventType{Type: eventDrop, SubType: int32(packet.DropReasonDesc)}
	} else {
		trace(packet, f)
	}
	if !judged(f) {
		return []*flowpb.Flow{packet}
	}
	return []*flowpb.Flow{c.verdict(f, number), packet}
}

// verdict is the event of a policy's verdict.
func (c *converter) verdict(f *flows.Flow, number uint64) *flowpb.Flow {
	verdict := c.common(f, number, "verdict")
	verdict.EventType = &flowpb.CiliumEventType{Type: eventPolicyVerdict}
	verdict.PolicyMatchType = matchL3L4
	if f.Reason == flows.DefaultDeny {
		verdict.PolicyMatchType = matchNone
	}
	return verdict
}

// judged reports whether policies have decided about a flow in the moment that it was seen.
func judged(f *flows.Flow) bool {
	switch {
	case f.Direction == "" || len(f.Policies) == 0:
		return false
	case f.Verdict == flows.Denied:
		return f.Reason == flows.DefaultDeny || f.Reason == flows.ByRule
	}
	return f.Event != flows.Ended
}

// trace says where a packet was seen that passes, and of which moment of its connection it is.
func trace(packet *flowpb.Flow, f *flows.Flow) {
	point, sub := flowpb.TraceObservationPoint_TO_STACK, int32(traceToStack)
	if f.Direction == flows.Ingress || f.Direction == "" && f.Destination.Pod != "" {
		point, sub = flowpb.TraceObservationPoint_TO_ENDPOINT, traceToEndpoint
	}
	packet.EventType = &flowpb.CiliumEventType{Type: eventTrace, SubType: sub}
	packet.TraceObservationPoint, packet.TraceReason = point, flowpb.TraceReason_NEW
	if f.Event == flows.Ended {
		packet.TraceReason = flowpb.TraceReason_ESTABLISHED
	}
}

// common is what all events of a flow have.
func (c *converter) common(f *flows.Flow, number uint64, event string) *flowpb.Flow {
	h := &flowpb.Flow{
		Time:             timestamppb.New(f.Time),
		Uuid:             uuid.NewSHA1(c.space, fmt.Appendf(nil, "%d %s", number, event)).String(),
		Emitter:          &flowpb.Emitter{Name: "podfence", Version: c.version},
		Type:             flowpb.FlowType_L3_L4,
		NodeName:         f.Node,
		Verdict:          flowpb.Verdict_FORWARDED,
		IP:               ip(f),
		L4:               layer4(f),
		Source:           c.endpoint(f, &f.Source, flows.Egress),
		Destination:      c.endpoint(f, &f.Destination, flows.Ingress),
		TrafficDirection: direction(f.Direction),
	}
	if f.Verdict == flows.Denied {
		h.Verdict, h.DropReasonDesc = flowpb.Verdict_DROPPED, reasons[f.Reason]
		h.DropReason = uint32(h.DropReasonDesc) //nolint:staticcheck // It is deprecated; older clients, such as Hubble's UI, read it.
	}
	if f.Verdict == flows.WouldDeny {
		h.Verdict = flowpb.Verdict_AUDIT // as Cilium's agent says of what a policy would have dropped, in its audit mode
	}
	if f.Verdict != flows.Denied || f.Reason == flows.DefaultDeny || f.Reason == flows.ByRule {
		h.IsReply = wrapperspb.Bool(false) // the source has begun; of other denials, nobody can tell
	}
	if f.Asked != nil && f.Asked.Service != "" {
		h.DestinationService = &flowpb.Service{Namespace: f.Asked.Namespace, Name: f.Asked.Service}
	}
	h.DestinationNames = f.DestinationNames
	h.Summary = summary(f) //nolint:staticcheck // It is deprecated; hubble observe prints it.
	decidedBy(h, f)
	aggregate(h, f)
	return h
}

func direction(d flows.Direction) flowpb.TrafficDirection {
	switch d {
	case flows.Ingress:
		return flowpb.TrafficDirection_INGRESS
	case flows.Egress:
		return flowpb.TrafficDirection_EGRESS
	}
	return flowpb.TrafficDirection_TRAFFIC_DIRECTION_UNKNOWN
}

// ip is what a flow has of layer 3. An address that is IPv4 in IPv6's form is the IPv4 address.
func ip(f *flows.Flow) *flowpb.IP {
	source, destination := f.Source.IP.Unmap(), f.Destination.IP.Unmap()
	version := flowpb.IPVersion_IPv4
	if source.Is6() || destination.Is6() {
		version = flowpb.IPVersion_IPv6
	}
	return &flowpb.IP{Source: source.String(), Destination: destination.String(), IpVersion: version}
}

// layer4 is what a flow has of layer 4; nil: Hubble has no words for its protocol.
func layer4(f *flows.Flow) *flowpb.Layer4 {
	from, to := uint32(f.Source.Port), uint32(f.Destination.Port)
	var kind, code uint32
	if f.ICMPType != nil {
		kind = uint32(*f.ICMPType)
	}
	if f.ICMPCode != nil {
		code = uint32(*f.ICMPCode)
	}
	switch f.Protocol {
	case "TCP":
		return &flowpb.Layer4{Protocol: &flowpb.Layer4_TCP{TCP: &flowpb.TCP{SourcePort: from, DestinationPort: to, Flags: tcpFlags(f.TCPFlags)}}}
	case "UDP":
		return &flowpb.Layer4{Protocol: &flowpb.Layer4_UDP{UDP: &flowpb.UDP{SourcePort: from, DestinationPort: to}}}
	case "SCTP":
		return &flowpb.Layer4{Protocol: &flowpb.Layer4_SCTP{SCTP: &flowpb.SCTP{SourcePort: from, DestinationPort: to}}}
	case "ICMP":
		return &flowpb.Layer4{Protocol: &flowpb.Layer4_ICMPv4{ICMPv4: &flowpb.ICMPv4{Type: kind, Code: code}}}
	case "ICMPv6":
		return &flowpb.Layer4{Protocol: &flowpb.Layer4_ICMPv6{ICMPv6: &flowpb.ICMPv6{Type: kind, Code: code}}}
	}
	return nil
}

// tcpFlags reads the names of flags, such as "SYN,ACK"; nil: there are none.
func tcpFlags(names string) *flowpb.TCPFlags {
	if names == "" {
		return nil
	}
	flags := &flowpb.TCPFlags{}
	for name := range strings.SplitSeq(names, ",") {
		switch strings.TrimSpace(name) {
		case "FIN":
			flags.FIN = true
		case "SYN":
			flags.SYN = true
		case "RST":
			flags.RST = true
		case "PSH":
			flags.PSH = true
		case "ACK":
			flags.ACK = true
		case "URG":
			flags.URG = true
		case "ECE":
			flags.ECE = true
		case "CWR":
			flags.CWR = true
		case "NS":
			flags.NS = true
		}
	}
	return flags
}

// decidedBy says which policies have decided, also for a default deny: then they are those that isolate
// the pod.
func decidedBy(h *flowpb.Flow, f *flows.Flow) {
	var all []*flowpb.Policy
	for _, p := range f.Policies {
		all = append(all, policy(p))
	}
	denied := f.Verdict == flows.Denied || f.Verdict == flows.WouldDeny
	switch {
	case f.Direction == flows.Egress && denied:
		h.EgressDeniedBy = all
	case f.Direction == flows.Ingress && denied:
		h.IngressDeniedBy = all
	case f.Direction == flows.Egress:
		h.EgressAllowedBy = all
	case f.Direction == flows.Ingress:
		h.IngressAllowedBy = all
	}
}

func policy(p flows.Policy) *flowpb.Policy {
	labels := []string{"podfence:tier=" + p.Tier}
	if p.Rule != nil {
		labels = append(labels, fmt.Sprintf("podfence:rule=%d", *p.Rule))
	}
	if p.RuleName != "" {
		labels = append(labels, "podfence:rule-name="+p.RuleName)
	}
	return &flowpb.Policy{Kind: p.Kind, Namespace: p.Namespace, Name: p.Name, Labels: labels}
}

// aggregate says how many packets a summary of a denied flow stands for.
func aggregate(h *flowpb.Flow, f *flows.Flow) {
	if f.Repeats == 0 {
		return
	}
	count := uint32(min(f.Repeats, 1<<32-1))
	switch f.Direction {
	case flows.Ingress:
		h.Aggregate = &flowpb.Aggregate{IngressFlowCount: count}
	case flows.Egress:
		h.Aggregate = &flowpb.Aggregate{EgressFlowCount: count}
	default:
		h.Aggregate = &flowpb.Aggregate{UnknownDirectionFlowCount: count}
	}
}

// summary is what hubble observe prints in parentheses at the end of a line: Cilium's words about the
// packet, and then podfence's about why.
func summary(f *flows.Flow) string {
	words := []string{f.Protocol}
	switch {
	case f.TCPFlags != "":
		words[0] = "TCP Flags: " + strings.ReplaceAll(f.TCPFlags, ",", ", ")
	case f.ICMPType != nil && f.ICMPCode != nil:
		words[0] = fmt.Sprintf("%s type %d code %d", f.Protocol, *f.ICMPType, *f.ICMPCode)
	}
	if f.Event == flows.Ended {
		words = append(words, fmt.Sprintf("ended after %d packets, %d bytes", f.Packets, f.Bytes))
	}
	if f.Text != "" {
		words = append(words, f.Text)
	}
	if f.NearestMiss != "" {
		words = append(words, "nearly allowed: "+f.NearestMiss)
	}
	if f.Asked != nil && f.Asked.Service == "" {
		words = append(words, fmt.Sprintf("%s port %d was asked for", f.Asked.IP, f.Asked.Port))
	}
	if f.Repeats > 0 {
		words = append(words, fmt.Sprintf("%d more packets like the first", f.Repeats))
	}
	if f.SampledOf > 1 {
		words = append(words, fmt.Sprintf("one of %d such flows", f.SampledOf))
	}
	return strings.Join(words, "; ")
}
