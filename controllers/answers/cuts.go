package answers

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/controllers/observer"
	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

const (
	// rememberedFlows is how many flows are known again when they are seen once more, and rememberedPackets of how
	// many packets it is remembered who they are between.
	rememberedFlows, rememberedPackets = 20_000, 10_000
)

// cuts gathers flows that would be cut, by who they are between. It is for one goroutine.
type cuts struct {
	names observer.Names
	// Until begun, flows are those that are open; afterwards, those that have begun since.
	begun bool
	byKey map[cutKey]*answers.Cut
	// seen are flows that were seen, with the bytes that are counted of them; full: there were more. found counts
	// flows, and leftOut those in none of byKey.
	seen           map[string]uint64
	full           bool
	found, leftOut int

	// supposed and now are of the look that is under way, and of packets what it has found of them.
	supposed *enforcer.Supposition
	now      time.Time
	packets  map[judgedPacket][]*answers.Cut
}

// cutKey tells Cuts apart.
type cutKey struct {
	source, destination     endKey
	protocol                packet.Protocol
	port                    uint16
	direction, reason, text string
}

// endKey tells ends apart.
type endKey struct {
	kind, namespace, name string
	addr                  netip.Addr // of an Address
}

// judgedPacket is what a flow is by, and what it is judged by.
type judgedPacket struct {
	packet, judgedBy packet.Packet
	hook             nft.HookPoint
}

func newCuts(names observer.Names) *cuts {
	return &cuts{names: names, byKey: map[cutKey]*answers.Cut{}, seen: map[string]uint64{}}
}

// supposing begins a look.
func (c *cuts) supposing(s *enforcer.Supposition, now time.Time) {
	c.supposed, c.now, c.packets = s, now, map[judgedPacket][]*answers.Cut{}
}

// begin says that flows that are added from now on, and were not before, have begun since.
func (c *cuts) begin() { c.begun = true }

// count is how many flows would be cut.
func (c *cuts) count() int { return c.found }

// add takes in a flow that would be cut.
func (c *cuts) add(f nft.OpenFlow) {
	before, known := c.seen[f.ID]
	if known && before == ended {
		return
	}
	switch ofBefore := f.Ended && !c.begun; {
	case !known && ofBefore: // it is no connection that would be cut, nor will it have begun later
		c.remember(f.ID, ended)
		return
	case !known && c.begun && c.full: // nobody knows whether it was seen before
		return
	case !known:
		c.found++
	}
	all := c.of(judgedPacket{f.Packet, f.JudgedBy, f.Hook})
	if len(all) == 0 && !known {
		c.leftOut++
	}
	for _, cut := range all {
		if !known {
			cut.Flows++
			if f.Counted {
				cut.CountedFlows++
			}
		}
		if f.Counted {
			cut.Bytes += f.Bytes - before
		}
		if seen := c.now.Add(-f.Idle).UTC().Truncate(time.Second); f.Idle >= 0 && seen.After(cut.LastSeen) {
			cut.LastSeen = seen
		}
	}
	c.remember(f.ID, f.Bytes)
}

// ended is in place of the bytes of a connection that had ended before the first look.
const ended = 1<<64 - 1

// remember notes what is counted of a flow, if there is room for that.
func (c *cuts) remember(id string, bytes uint64) {
	if _, known := c.seen[id]; known || len(c.seen) < rememberedFlows {
		c.seen[id] = bytes
		return
	}
	c.full = true
}

// of are the Cuts that flows of a packet belong to, one for each direction in which it would be cut. There are none
// if there is no room for more.
func (c *cuts) of(p judgedPacket) []*answers.Cut {
	all, known := c.packets[p]
	if known {
		return all
	}
	source, destination := c.end(p.packet.Src), c.end(p.packet.Dst)
	for _, denial := range c.supposed.Denials(p.hook, p.judgedBy) {
		key := cutKey{
			keyOf(source), keyOf(destination), p.packet.Protocol, p.packet.DstPort, string(denial.Direction), string(denial.Reason), textOf(denial),
		}
		cut := c.byKey[key]
		if cut == nil && len(c.byKey) >= answers.MaxCuts {
			continue
		}
		if cut == nil {
			cut = &answers.Cut{
				Source: source, Destination: destination, Protocol: observer.ProtocolName(p.packet.Protocol), Port: p.packet.DstPort,
				Direction: key.direction, Reason: key.reason, Text: key.text, Policies: policiesOf(denial),
			}
			c.byKey[key] = cut
		}
		all = append(all, cut)
	}
	if len(c.packets) >= rememberedPackets {
		clear(c.packets)
	}
	c.packets[p] = all
	return all
}

// end is who has an address.
func (c *cuts) end(addr netip.Addr) answers.LiveEnd {
	e := c.names.Endpoint(addr, 0)
	end := answers.LiveEnd{Kind: "Address", Namespace: e.Namespace, Pod: e.Pod, Labels: e.Labels, Address: addr}
	switch {
	case e.Workload != nil:
		end.Kind, end.Name = e.Workload.Kind, e.Workload.Name
	case e.Pod != "":
		end.Kind, end.Name = "Pod", e.Pod
	case e.Node != "":
		end.Kind, end.Name = "Node", e.Node
	}
	return end
}

func keyOf(e answers.LiveEnd) endKey {
	key := endKey{kind: e.Kind, namespace: e.Namespace, name: e.Name}
	if e.Name == "" {
		key.addr = e.Address
	}
	return key
}

// textOf says why in words that are the same for all pods of a workload.
func textOf(d ruleset.Denial) string {
	text := ""
	for _, p := range d.Policies {
		name := p.Kind + " " + p.Name
		if p.Namespace != "" {
			name = p.Kind + " " + p.Namespace + "/" + p.Name
		}
		if text != "" {
			text += ", "
		}
		if text += name; p.Rule != nil {
			text += " " + string(d.Direction) + "[" + strconv.Itoa(*p.Rule) + "]"
		}
		if p.RuleName != "" {
			text += " " + strconv.Quote(p.RuleName)
		}
	}
	if d.Reason == flows.DefaultDeny && text != "" {
		return "isolated by " + text
	}
	return cmp.Or(text, d.Text)
}

// policiesOf are the policies that deny.
func policiesOf(d ruleset.Denial) (all []answers.CutPolicy) {
	for _, p := range d.Policies[:min(len(d.Policies), answers.MaxCutPolicies)] {
		all = append(all, answers.CutPolicy{Kind: p.Kind, Namespace: p.Namespace, Name: p.Name, Rule: p.Rule, RuleName: p.RuleName})
	}
	return all
}

// into writes what is known now into an answer.
func (c *cuts) into(said *answers.LiveCuts) {
	said.LeftOut, said.AtLeast = c.leftOut, c.full && c.begun
	said.Cuts = make([]answers.Cut, 0, len(c.byKey))
	for _, cut := range c.byKey {
		said.Cuts = append(said.Cuts, *cut)
	}
	slices.SortFunc(said.Cuts, func(a, b answers.Cut) int {
		return cmp.Or(
			cmp.Compare(b.Flows, a.Flows), compareEnds(a.Source, b.Source), compareEnds(a.Destination, b.Destination),
			cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Text, b.Text),
		)
	})
}

func compareEnds(a, b answers.LiveEnd) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), a.Address.Compare(b.Address))
}
