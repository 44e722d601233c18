package ruleset

import (
	"slices"
	"strings"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// The staged table says what would be denied with the staged policies in force. It is rendered by the same code as
// the policies' table, of what policy.Model.NewStaged says, and holds only the pods that a staged policy is about.
//
// Its base chains come right after those that judge: a packet that comes here has been allowed, in both directions.
// Wherever a rule would deny, the packet is counted, the first of each flow is told to the nflog group, and it is
// accepted. No rule of the table drops or rejects anything, and what it accepts other tables have judged. So whatever
// is in it, and whatever goes wrong with it, changes no verdict.

// ForStaged are the options of the staged table beside a table with these: it has what bears on the verdicts of
// policies, and nothing that keeps up order.
func (o Options) ForStaged() Options {
	return Options{Staged: true, AllowToNode: o.AllowToNode, LongRun: o.LongRun, LogGroup: o.LogGroup, RevokedMark: o.RevokedMark}
}

// stagedChains are the chains of the staged table that do not depend on the cluster.
func stagedChains(o Options) []*nft.Chain {
	judge := func(name string, point nft.HookPoint, priority int, d policy.Direction, first ...nft.Rule) *nft.Chain {
		known := []nft.Rule{
			{Matches: []nft.Match{nft.Established}, Verdict: nft.Verdict{Action: nft.Accept}},
			{Matches: []nft.Match{nft.Related}, Verdict: nft.Verdict{Action: nft.Accept}},
		}
		return &nft.Chain{Name: name, Hook: &nft.Hook{Point: point, Priority: priority}, Rules: slices.Concat(first, known, toPods(d))}
	}
	chains := []*nft.Chain{
		judge(chainEgressForward, nft.Forward, -8, policy.Egress),
		judge(chainIngressForward, nft.Forward, -7, policy.Ingress),
		discoveryChain(o), listenersChain(),
	}
	if !o.AllowToNode {
		chains = append(chains, judge(chainEgressInput, nft.Input, -9, policy.Egress,
			nft.Rule{Matches: []nft.Match{nft.Loopback{}}, Verdict: nft.Verdict{Action: nft.Accept}}, askNode))
	}
	if o.RevokedMark != 0 {
		chains = append(chains, beginningsChain())
	}
	return chains
}

// stagedSets are the sets and maps of the staged table that always exist.
func stagedSets() (sets []*nft.Set) {
	sets = discoverySets()
	for _, f := range families {
		for _, d := range policy.Directions {
			sets = append(sets, podMapOf(d, f))
		}
		sets = append(sets, doubtfulSetOf(f))
	}
	return sets
}

// The chains that rules lead to which would deny. What only connection tracking knows has chains of its own, as in the
// policies' table.
const (
	chainWouldDeny        = "would-deny"
	chainWouldDenyInvalid = "would-deny-invalid"
	chainWouldDenyMidway  = "would-deny-midway"
)

// IsStaged reports whether a packet that the kernel has told of was told by the staged table.
func IsStaged(l nft.Logged) bool { return l.Family == nft.Inet && wouldDeny(l.Prefix) }

// wouldDeny reports whether a chain is one that rules lead to which would deny.
func wouldDeny(chain string) bool {
	return chain == chainWouldDeny || strings.HasPrefix(chain, chainWouldDeny+"-")
}

// WouldTell are the chains of the table, which must be a staged one, that would tell of a packet: one for each direction in
// which it would be denied.
func (t *Table) WouldTell(hook nft.HookPoint, p nft.TracePacket) (chains []string) {
	for _, step := range t.Trace(hook, p).Steps {
		if wouldDeny(step.Chain) && step.Rule.Verdict.Action == nft.Accept {
			chains = append(chains, step.Chain)
		}
	}
	return chains
}

// WouldBe is what the table, which must be a staged one, says of a packet that the policies' table has denied in a
// direction.
func (t *Table) WouldBe(l nft.Logged, d policy.Direction) Staged {
	p := l.Packet
	p.Hairpin, p.State = p.Src == p.Dst, nft.New
	return t.StagedVerdict(d, l.Hook, p)
}

// Staged is what a staged table says of a packet in one direction of a pod's rules.
type Staged struct {
	// Rehearsed: a staged policy is about the pod. If it is false, nothing else counts.
	Rehearsed bool
	// Denial is why the packet would be denied; nil: it would be allowed, By these policies if a rule of theirs
	// decides.
	Denial *Denial
	By     []flows.Policy
}

// Allowed reports whether the packet would be allowed in that direction.
func (s Staged) Allowed() bool { return s.Rehearsed && s.Denial == nil }

// StagedVerdict is what the table, which must be a staged one, says of a packet at a hook.
func (t *Table) StagedVerdict(d policy.Direction, hook nft.HookPoint, p nft.TracePacket) (s Staged) {
	base := chainIngressForward
	switch {
	case d == policy.Egress && hook == nft.Input:
		base = chainEgressInput
	case d == policy.Egress:
		base = chainEgressForward
	}
	steps := t.Trace(hook, p).Steps
	begin := slices.IndexFunc(steps, func(s nft.Step) bool { return s.Chain == base && s.Rule.Verdict.Action == nft.Dispatch })
	if begin < 0 {
		return s
	}
	s.Rehearsed = true
	steps = steps[begin:]
	if end := slices.IndexFunc(steps[1:], func(s nft.Step) bool { return t.Chains[s.Chain].Hook != nil }); end >= 0 {
		steps = steps[:end+1]
	}
	if at := slices.IndexFunc(steps, func(s nft.Step) bool { return wouldDeny(s.Chain) }); at >= 0 {
		denial := t.denial(nft.Trace{Steps: steps[:at+1], Verdict: nft.Drop})
		s.Denial = &denial
		return s
	}
	if rule, is := steps[len(steps)-1].Rule.Origin.(PolicyRule); is {
		s.By = []flows.Policy{t.decided(rule).FlowPolicy()}
	}
	return s
}
