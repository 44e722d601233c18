package enforcer

import (
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// Allowances returns a function that says which rules of policies let the first packet of a connection pass
// a hook, by the table as it is when asked: what is asked about a connection that has begun before may not
// be what has let it pass then. At the hook forward that may be a rule for egress and one for ingress, in
// this order. It has none where no policy is about the pod, before the first commit, and for what the table
// does not let pass any more (see ruleset.Table.AllowedBy).
//
// The function remembers its answers until the table changes, because many connections usually lead from
// the same address to the same port; nobody may change an answer. It is for one goroutine.
func (e *Enforcer) Allowances() func(nft.HookPoint, policy.Packet) []ruleset.Decided {
	return e.policies.allowances()
}

func (s *sharedTable) allowances() func(nft.HookPoint, policy.Packet) []ruleset.Decided {
	answers := map[judged][]ruleset.Decided{}
	var of uint64 // the version that the answers are of
	return func(hook nft.HookPoint, p policy.Packet) []ruleset.Decided {
		s.mu.RLock()
		defer s.mu.RUnlock()
		if s.table == nil {
			return nil
		}
		if s.version != of || len(answers) >= remembered {
			clear(answers)
			of = s.version
		}
		asked := judged{hook, p}
		by, known := answers[asked]
		if !known {
			by = s.table.AllowedBy(s.table.Trace(hook, nft.TracePacket{Packet: p, State: nft.New}))
			answers[asked] = by
		}
		return by
	}
}
