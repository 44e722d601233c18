package ruleset

import (
	"fmt"
	"slices"
	"strings"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// Denial is why a packet was denied.
type Denial struct {
	// Direction and Reason are those of the rule that has denied it (see ReasonOf).
	Direction flows.Direction
	Reason    flows.Reason
	// Text says the same in words.
	Text string
	// Pod is the subject of the rules; the zero Key where no pod's own rules have denied it.
	Pod policy.Key
	// Policies are as in a flows.Flow.
	Policies []flows.Policy
}

// DenialOf says why a packet that the kernel has told of was denied, by the table as it is now. If that lets
// the packet pass, or if there is no table yet, the rule that has denied it has changed since: the Reason is
// flows.Changed.
func (t *Table) DenialOf(l nft.Logged) Denial {
	changed := Denial{Reason: flows.Changed, Text: "by a rule that has changed since"}
	if l.Family == nft.Bridge {
		reason := flows.Reason(strings.TrimPrefix(l.Prefix, chainDenied+"-"))
		return Denial{Reason: reason, Text: frameTexts[reason]}
	}
	if t == nil {
		return changed
	}
	p := l.Packet
	p.Elsewhere = l.Hook == nft.Prerouting // what is denied there alone
	p.Hairpin = p.Src == p.Dst             // a packet to oneself comes here only round by a Service
	if l.Prefix == chainDeniedRevoked {
		p.Mark |= t.options.RevokedMark
	}
	for _, state := range statesOf(l) {
		p.State = state
		trace := t.Trace(l.Hook, p)
		if at := slices.IndexFunc(trace.Steps, func(s nft.Step) bool { return s.Chain == l.Prefix }); at >= 0 {
			trace.Steps, trace.Verdict = trace.Steps[:at+1], nft.Drop // or so it would be
			return t.denial(trace)
		}
	}
	return changed
}

// Denials say why a table would deny a packet: one for each base chain of the hook that would, in the order of
// the hook. So of a packet between two pods of a node there may be one for egress, and one for ingress.
func (t *Table) Denials(hook nft.HookPoint, p nft.TracePacket) (all []Denial) {
	for _, trace := range t.Traces(hook, p) {
		if trace.Verdict != nft.Accept {
			all = append(all, t.denial(trace))
		}
	}
	return all
}

// frameTexts are what is said of frames that were denied.
var frameTexts = map[flows.Reason]string{
	flows.Spoofed: "not from the pod's own address, or not to whom a pod may send",
	flows.Invalid: "a first fragment without an upper-layer header",
	flows.TooMany: "too many fragments",
}

// statesOf are what connection tracking may have said of a packet, the most probable first: where the kernel
// did not tell it, and where somebody may have exempted the packet. Which of them it was, the chain that has
// told of the packet says.
func statesOf(l nft.Logged) []nft.CtState {
	if l.Tracked && l.Packet.State != nft.Invalid {
		return []nft.CtState{l.Packet.State}
	}
	states := []nft.CtState{l.Packet.State}
	for _, other := range []nft.CtState{nft.New, nft.Invalid, nft.Untracked, nft.Related, nft.Established} {
		if other != l.Packet.State {
			states = append(states, other)
		}
	}
	return states
}

// denial is why a packet was denied, by its trace.
func (t *Table) denial(tr nft.Trace) Denial {
	last := denying(tr)
	d := Denial{Text: t.Denied(tr)}
	d.Direction, d.Reason = ReasonOf(last.Rule)
	switch origin := last.Rule.Origin.(type) {
	case PolicyRule:
		d.Pod = t.subjectOf(tr, origin.Direction)
		d.Policies = []flows.Policy{t.decided(origin).FlowPolicy()}
	case Isolated:
		d.Pod = origin.Pod
		if d.Reason == flows.DefaultDeny {
			if len(isolating(t.Chains, origin)) == 0 {
				d.Reason, d.Text = flows.UnknownPod, fmt.Sprintf("%s of %s, whose labels or Namespace are not known", d.Direction, origin.Pod)
			}
			for _, key := range isolating(t.Chains, origin) {
				d.Policies = append(d.Policies, Decided{PolicyRule: PolicyRule{Policy: key, Index: -1}}.FlowPolicy())
			}
		}
	case InvalidFor:
		d.Pod = origin.Pod
	}
	return d
}
