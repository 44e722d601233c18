package enforcer

import (
	"net/netip"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// Supposition judges packets as they are judged now, and as they would be after some changes. Nothing of it
// reaches the kernel. It costs what concerns the node's pods, and whom packets are from and to that it is asked
// about; it holds the model's mutex for that alone, and keeps no commit waiting. It is of the time when it
// was made, and for one goroutine.
type Supposition struct {
	inbox *inbox
	asIs  func(nft.HookPoint, policy.Packet) bool
	model *policy.Supposed
	table *ruleset.Table
	// known are addresses that the model knows all about, and verdicts what is remembered of the table's. Both
	// are forgotten when they are many.
	known    map[netip.Addr]struct{}
	verdicts map[judged]bool
}

// Suppose supposes changes of policies, Namespaces and pods (see policy.Excerpt.Suppose).
func (e *Enforcer) Suppose(changes ...policy.Change) *Supposition {
	model := ask(e.inbox, (*policy.Model).Excerpt).Suppose(changes...)
	table := ruleset.Build(model.Intent(), e.ruleset)
	e.policies.bequeath(table)
	return &Supposition{
		inbox: e.inbox, asIs: e.policies.judge(), model: model, table: table,
		known: map[netip.Addr]struct{}{}, verdicts: map[judged]bool{},
	}
}

// Passes reports whether the table as it is lets a new connection pass.
func (s *Supposition) Passes(hook nft.HookPoint, p policy.Packet) bool { return s.asIs(hook, p) }

// WouldPass reports whether the supposed table lets a new connection pass.
func (s *Supposition) WouldPass(hook nft.HookPoint, p policy.Packet) bool {
	s.learn(p)
	flow := judged{hook, p}
	passes, known := s.verdicts[flow]
	if !known {
		if len(s.verdicts) >= remembered {
			clear(s.verdicts)
		}
		passes = s.table.Trace(hook, nft.TracePacket{Packet: p, State: nft.New, Open: true}).Verdict == nft.Accept
		s.verdicts[flow] = passes
	}
	return passes
}

// Denials say why the supposed table denies a new connection, for each direction in which it does.
func (s *Supposition) Denials(hook nft.HookPoint, p policy.Packet) []ruleset.Denial {
	s.learn(p)
	return s.table.Denials(hook, nft.TracePacket{Packet: p, State: nft.New})
}

// learn has the supposed table know who has the ends of a packet.
func (s *Supposition) learn(p policy.Packet) {
	var unknown []netip.Addr
	for _, addr := range []netip.Addr{p.Src, p.Dst} {
		if _, known := s.known[addr]; !known {
			unknown = append(unknown, addr)
		}
	}
	if len(unknown) == 0 {
		return
	}
	if len(s.known) >= remembered {
		clear(s.known)
	}
	for _, addr := range unknown {
		s.known[addr] = struct{}{}
	}
	facts := ask(s.inbox, func(m *policy.Model) []policy.Change { return m.HoldersAt(unknown...) })
	if len(facts) == 0 {
		return
	}
	s.model.Learn(facts...)
	for more := true; more; more = s.model.Pending() {
		s.table.Update(s.model.Take())
	}
	clear(s.verdicts)
}
