package nft

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podfence/podfence/policy/packet"
)

// Trace is the way that a packet takes through the base chains of one hook.
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

// Trace runs a packet through the table as the kernel would: through every base chain of the hook by
// priority, until one denies it. It panics at a match or a field that it does not know, because
// nobody must go by a wrong verdict. Chains that give packets another address are left out, as
// they deny none.
func (t *Table) Trace(hook HookPoint, p TracePacket) Trace {
	tr := tracer{table: t, packet: p}
	for _, chain := range t.judgingAt(hook) {
		if verdict, reached := tr.chain(chain); reached && verdict != Accept {
			return Trace{Steps: tr.steps, Verdict: verdict}
		}
	}
	return Trace{Steps: tr.steps, Verdict: Accept}
}

// Traces are the ways that a packet takes through each base chain of a hook, by priority, as if none of them
// had denied it before: see Trace.
func (t *Table) Traces(hook HookPoint, p TracePacket) (all []Trace) {
	for _, chain := range t.judgingAt(hook) {
		tr := tracer{table: t, packet: p}
		verdict, reached := tr.chain(chain)
		if !reached {
			verdict = Accept
		}
		all = append(all, Trace{Steps: tr.steps, Verdict: verdict})
	}
	return all
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
		if verdict.Action == Queue { // whoever reads the queue accepts
			verdict.Action = Accept
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
	case InGroup:
		return t.packet.Frame.Group == uint32(m)
	case PacketType:
		return t.packet.Frame.PacketType() == m
	case MessageType:
		return t.hasMessage(packet.ICMPv6) && t.packet.ICMPType == uint8(m)
	case CtState:
		return t.packet.State&m != 0
	case Mark:
		return t.packet.Mark&uint32(m) == uint32(m)
	case Elsewhere:
		return t.packet.Elsewhere
	case DNAT:
		return t.packet.DNAT
	case Begun:
		return t.packet.State&(New|Established|Related) != 0 && !t.packet.Reply
	case Midstream:
		return t.hasUpper() && t.packet.Midstream && t.packet.Protocol == packet.Protocol(m)
	case ICMPv6Error:
		return t.hasMessage(packet.ICMPv6) && t.packet.ICMPType < 128
	case Redirect:
		return t.hasMessage(packet.ICMP) && t.packet.ICMPType == ICMPRedirect
	case Fragment:
		return t.isFragment(m)
	case Atomic: // as good as whole
		return false
	case UpperLayer:
		return t.hasUpper()
	case Limit: // a single packet is not too many
		_, has := t.key([]Field{m.Field})
		return has && !m.Over
	case OfFamily:
		return t.isOf(m)
	case Unconfirmed:
		return t.packet.State == New
	case Connections: // and a single connection is not too many either
		return false
	case Noted:
		_, has := t.key(m.Fields)
		return has
	case Authenticated:
		return t.packet.Protocol == packet.AH
	case ICMPv6:
		return t.packet.Protocol == packet.ICMPv6
	case NextHeader:
		return !t.packet.Src.Is4() && (t.packet.NextHeader() == m.Protocol) != m.Not
	case HopLimit:
		return !t.packet.Src.Is4() && t.packet.HopLimit == uint8(m)
	case Lookup:
		return t.looksUp(m)
	}
	panic(fmt.Sprintf("the tracer does not know the match %T", m))
}

func (t *tracer) looksUp(m Lookup) bool {
	key, ok := t.key(m.Fields)
	set := t.table.Sets[m.Set]
	_, lapsed := set.Lapsed[key]
	return ok && (set.contains(key) || lapsed && t.packet.Open) != m.Not
}

func (t *tracer) isOf(f OfFamily) bool {
	return t.packet.Src.IsValid() && t.packet.Src.Is4() == (f == 4)
}

// hasUpper reports whether the packet has an upper-layer header, of which rules can ask ports, types and
// flags. Of a fragment, only the first can have it.
func (t *tracer) hasUpper() bool { return t.packet.Fragment == Whole || t.packet.Fragment == First }

// hasMessage reports whether rules can ask for the type of a message of ICMP, or of ICMPv6.
func (t *tracer) hasMessage(of packet.Protocol) bool {
	return t.hasUpper() && t.untagged() && t.packet.Protocol == of
}

// isFragment reports whether the packet is one that the match is about.
func (t *tracer) isFragment(m Fragment) bool {
	if !t.packet.Src.IsValid() || t.packet.Src.Is4() == m.V6 || m.V6 && !t.untagged() {
		return false
	}
	part := t.packet.Fragment
	return part != Whole && !m.First || m.First && (part == First || part == Headerless || part == Whole && !m.V6)
}

// untagged reports whether rules can ask for messages of ICMP, and for fragments of IPv6. In family bridge
// they know these by the type of the frame, which is the tag's if there is a tag.
func (t *tracer) untagged() bool {
	return t.table.Family != Bridge || t.packet.Frame.Type == TypeIPv4 || t.packet.Frame.Type == TypeIPv6
}

func (t *tracer) dispatch(v Verdict) (Verdict, bool) {
	key, ok := t.key([]Field{v.Field})
	if !ok {
		return Verdict{}, false
	}
	verdict, found := t.table.Sets[v.Map].Verdicts[key]
	return verdict, found
}

// key reads fields out of the packet. It fails if the packet lacks one of them.
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
		case Zero:
		case SrcPort:
			ok = ok && t.hasUpper() && t.packet.SrcPort != 0
			e.First = t.packet.SrcPort
		case DstPort:
			ok = ok && t.hasUpper()
			e.First = t.packet.DstPort
		case CtOriginalSrc4, CtOriginalSrc6:
			ok = ok && addr(t.packet.Flow.OriginalSrc, f == CtOriginalSrc4)
		case CtReplySrc4, CtReplySrc6:
			ok = ok && addr(t.packet.Flow.ReplySrc, f == CtReplySrc4)
		case ICMPMessageType:
			ok = ok && t.hasMessage(packet.ICMP)
			e.Protocol = t.packet.ICMPType
		case ICMPv6MessageType:
			ok = ok && t.hasMessage(packet.ICMPv6)
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
		default:
			panic(fmt.Sprintf("the tracer does not know the field %d", f))
		}
	}
	return e, ok
}
