package ruleset

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podfence/podfence/policy"
)

// TracePacket is a packet at a hook, with what the kernel knows of its flow.
type TracePacket struct {
	policy.Packet
	// State is one bit; New for the first packet of a connection.
	State CtState
	// Mark is the flow's conntrack mark.
	Mark uint32
	// Midstream: it begins no connection, whatever State is.
	Midstream bool
	// DNAT: destination NAT has led its flow elsewhere.
	DNAT bool
	// Elsewhere: it came in by another link than the one that leads to its source.
	Elsewhere bool
	// Fragment says what part of a datagram it is, where it is not whole.
	Fragment FragmentPart
	// Flow is the flow that State is about, if there is one: of an ICMP error, that of
	// the packet that it quotes.
	Flow Flow
	// Loopback: it came in on the loopback device.
	Loopback bool
	// Frame is what it came in, for the table of family bridge.
	Frame Frame
}

// FragmentPart is a part of a datagram.
type FragmentPart uint8

// The parts.
const (
	Whole      FragmentPart = iota
	First                   // with an upper-layer header
	Headerless              // the first, without an upper-layer header
	Later
)

// Flow are the sources of a flow's packets, as connection tracking has them: of those that
// are sent as the first was, and of those the other way, as they are before NAT. No
// addresses: there is no flow.
type Flow struct{ OriginalSrc, ReplySrc netip.Addr }

// Frame is what a bridge sees around a packet.
type Frame struct {
	// Port is the name of the bridge's port that it came in by, Out of the one that it goes
	// out by; outside of a bridge, of the links.
	Port, Out string
	// Group is the group of the link that it came in by.
	Group    uint32
	Src, Dst [6]byte
	// Type is the EtherType as it is on the wire: a VLAN tag's, if it has one.
	// If it is ARP's, there is no packet, but ARP.
	Type uint16
	ARP  ARP
}

// PacketType is where the frame went to; 0: to one hardware address.
func (f Frame) PacketType() PacketType {
	switch {
	case f.Dst == broadcast:
		return Broadcast
	case f.Dst[0]&1 != 0:
		return Multicast
	}
	return 0
}

// ARP is an ARP message, as far as anyone looks at it.
type ARP struct {
	SrcMAC   [6]byte
	Src, Dst netip.Addr
}

// Trace is the way of a packet through the base chains of one hook.
type Trace struct {
	// Steps are the rules that matched, in order.
	Steps []Step
	// Verdict is Accept, Drop or Reject.
	Verdict Action
}

// Step is a rule that a packet met.
type Step struct {
	Chain string
	Rule  Rule
}

func (t Trace) String() string {
	var b strings.Builder
	for _, step := range t.Steps {
		fmt.Fprintf(&b, "%s: %s\n", step.Chain, step.Rule)
	}
	b.WriteString(Verdict{Action: t.Verdict}.String())
	return b.String()
}

// Denied says who has denied a packet: the pod and the direction, with the policies that
// isolate it and did not allow the packet; or, where that was no pod's chain, what the rule
// says of itself. It is empty for a packet that passes.
func (t *Table) Denied(tr Trace) string {
	if tr.Verdict == Accept || len(tr.Steps) == 0 {
		return ""
	}
	last := tr.Steps[len(tr.Steps)-1]
	chain := ownChain(last.Chain)
	direction, pod := objectOf(chain)
	if pod == "" || last.Rule.Comment != "" {
		return cmp.Or(last.Rule.Comment, last.Chain)
	}
	var policies []string
	for _, rule := range t.Chains[chain].Rules {
		if rule.Verdict.Action == Jump {
			_, name := objectOf(strings.TrimPrefix(rule.Verdict.Chain, "policy-"))
			policies = append(policies, name)
		}
	}
	return fmt.Sprintf("%s of %s, by %s", direction, pod, strings.Join(policies, " "))
}

// ownChain is the chain of the pod that a chain has the rules of: those of an address that several
// pods have go by that (see returning).
func ownChain(chain string) string {
	if rest, shared := strings.CutPrefix(chain, "shared-"); shared {
		direction, rest, _ := strings.Cut(rest, "-")
		if _, object, ofPod := strings.Cut(rest, "-"); ofPod {
			return direction + "-" + object
		}
	}
	return chain
}

// objectOf is what objectName has made a chain's name of; nothing for other names.
func objectOf(chain string) (prefix, object string) {
	if parts := strings.SplitN(chain, "-", 3); len(parts) == 3 && len(parts[1]) == maxHash && strings.Contains(parts[2], "/") {
		return parts[0], parts[2]
	}
	return "", ""
}

// Trace runs a packet through the table as the kernel would: every base chain
// of the hook by priority, until one denies. What gives a packet another address
// denies none, and is left out.
func (t *Table) Trace(hook HookPoint, p TracePacket) Trace {
	tr := tracer{table: t, packet: p}
	for _, name := range t.filters[hook] {
		if verdict, reached := tr.chain(t.Chains[name]); reached && verdict != Accept {
			return Trace{Steps: tr.steps, Verdict: verdict}
		}
	}
	return Trace{Steps: tr.steps, Verdict: Accept}
}

type tracer struct {
	table  *Table
	packet TracePacket
	steps  []Step
}

// chain runs the packet through a chain; it may come to no verdict.
func (t *tracer) chain(chain *Chain) (Action, bool) {
	for _, rule := range chain.Rules {
		if !t.matches(rule) {
			continue
		}
		verdict := rule.Verdict
		if verdict.Action == Dispatch {
			var found bool
			if verdict, found = t.dispatch(verdict); !found {
				continue
			}
		}
		t.steps = append(t.steps, Step{Chain: chain.Name, Rule: rule})
		if verdict.Action == Return {
			return Accept, false
		}
		if verdict.Action != Jump {
			return verdict.Action, true
		}
		if verdict, reached := t.chain(t.table.Chains[verdict.Chain]); reached {
			return verdict, true
		}
	}
	return Accept, false
}

func (t *tracer) matches(rule Rule) bool {
	return !slices.ContainsFunc(rule.Matches, func(m Match) bool { return !t.match(m) })
}

func (t *tracer) match(m Match) bool {
	switch m := m.(type) {
	case Loopback:
		return t.packet.Loopback
	case PodPort:
		return t.packet.Frame.Group == LinkGroup
	case PacketType:
		return t.packet.Frame.PacketType() == m
	case MessageType:
		return t.packet.Protocol == policy.ICMPv6 && t.packet.ICMPType == uint8(m)
	case CtState:
		return t.packet.State&m != 0
	case Mark:
		return t.packet.Mark&uint32(m) == uint32(m)
	case Elsewhere:
		return t.packet.Elsewhere
	case DNAT:
		return t.packet.DNAT
	case Midstream:
		return t.packet.Midstream && t.packet.Protocol == policy.Protocol(m)
	case ICMPv6Error:
		return t.packet.Protocol == policy.ICMPv6 && t.packet.ICMPType < 128
	case Redirect:
		return t.packet.Protocol == policy.ICMP && t.packet.ICMPType == redirect4
	case Fragment:
		part := t.packet.Fragment
		return t.packet.Src.IsValid() && t.packet.Src.Is4() != m.V6 && (part != Whole && !m.First || m.First && (part == First || part == Headerless || part == Whole && !m.V6))
	case Atomic: // as good as whole
		return false
	case UpperLayer:
		return t.packet.Fragment == Whole || t.packet.Fragment == First
	case Limit: // a packet alone is not too many
		return true
	case Unconfirmed:
		return t.packet.State == New
	case Connections: // and one connection neither
		return false
	case Noted:
		return true
	case Authenticated:
		return t.packet.Protocol == policy.AH
	case ICMPv6:
		return t.packet.Protocol == policy.ICMPv6
	case NextHeader:
		return !t.packet.Src.Is4() && (t.packet.NextHeader() == m.Protocol) != m.Not
	case HopLimit:
		return !t.packet.Src.Is4() && t.packet.HopLimit == uint8(m)
	case Lookup:
		key, ok := t.key(m.Fields)
		return ok && t.table.Sets[m.Set].contains(key) != m.Not
	}
	return false
}

func (t *tracer) dispatch(v Verdict) (Verdict, bool) {
	key, ok := t.key([]Field{v.Field})
	if !ok {
		return Verdict{}, false
	}
	verdict, found := t.table.Sets[v.Map].Verdicts[key]
	return verdict, found
}

// key reads fields out of the packet; it fails if the packet has one of them
// not.
func (t *tracer) key(fields []Field) (e Element, ok bool) {
	addrs := 0
	addr := func(addr netip.Addr, is4 bool) bool {
		if addrs++; addrs == 1 {
			e.Addr = AddrElement(addr).Addr
		} else {
			e.LastAddr = AddrElement(addr).Addr
		}
		return addr.IsValid() && addr.Is4() == is4
	}
	frame, isARP := t.packet.Frame, t.packet.Frame.Type == TypeARP
	ok = true
	for _, f := range fields {
		switch f {
		case SrcAddr4, SrcAddr6:
			ok = ok && addr(t.packet.Src, f == SrcAddr4)
		case DstAddr4, DstAddr6:
			ok = ok && addr(t.packet.Dst, f == DstAddr4)
		case L4Protocol:
			e.Protocol = uint8(t.packet.Protocol)
		case DstPort:
			e.First = t.packet.DstPort
		case CtOriginalSrc4, CtOriginalSrc6:
			ok = ok && addr(t.packet.Flow.OriginalSrc, f == CtOriginalSrc4)
		case CtReplySrc4, CtReplySrc6:
			ok = ok && addr(t.packet.Flow.ReplySrc, f == CtReplySrc4)
		case ICMPMessageType:
			ok = ok && t.packet.Protocol == policy.ICMP
			e.Protocol = t.packet.ICMPType
		case ICMPv6MessageType:
			ok = ok && t.packet.Protocol == policy.ICMPv6
			e.Protocol = t.packet.ICMPType
		case InPort:
			copy(e.Port[:], frame.Port)
		case OutPort:
			copy(e.Port[:], frame.Out)
		case SrcMAC:
			e.MAC = frame.Src
		case DstMAC:
			e.MAC = frame.Dst
		case FrameType:
			e.First = frame.Type
		case ARPSrcMAC:
			ok = ok && isARP
			e.MAC = frame.ARP.SrcMAC
		case ARPSrcAddr:
			ok = ok && isARP && addr(frame.ARP.Src, true)
		case ARPDstAddr:
			ok = ok && isARP && addr(frame.ARP.Dst, true)
		}
	}
	return e, ok
}

// contains reports whether a set has a key, or an interval that has it.
func (s *Set) contains(key Element) bool {
	switch s.Type {
	case Range4, Range6, PortRange:
		// The last range that begins at the key or before it.
		after, _ := slices.BinarySearchFunc(s.ordered, key, func(e, key Element) int {
			if begins(e, key) {
				return -1
			}
			return 1
		})
		return after > 0 && ends(s.ordered[after-1], key)
	}
	_, in := s.Elements[key]
	return in
}

// begins reports whether a range begins at the key or before it, ends whether it
// ends at the key or after it, of the same protocol.
func begins(e, key Element) bool {
	return cmp.Or(slices.Compare(e.Addr[:], key.Addr[:]), cmp.Compare(e.Protocol, key.Protocol), cmp.Compare(e.First, key.First)) <= 0
}

func ends(e, key Element) bool {
	return e.Protocol == key.Protocol && slices.Compare(e.LastAddr[:], key.Addr[:]) >= 0 && e.Last >= key.First
}
