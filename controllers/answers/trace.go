package answers

import (
	"context"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset/nft"
)

// trace is what the kernel does to a packet, and which flows it knows that began with such a one.
func (s *Server) trace(ctx context.Context, q answers.TraceQuestion, p packet.Packet) (answers.Trace, error) {
	t := answers.Trace{TypeMeta: answers.TypeMeta{APIVersion: answers.Version, Kind: "Trace"}, Node: s.options.Node, Question: q}
	way, assumed, err := s.wayOf(p)
	if err != nil {
		return t, err
	}
	visited, err := s.options.Kernel.Trace(ctx, way)
	if err != nil {
		return t, err
	}
	t.Verdict = answers.Pass
	for _, v := range visited {
		hook := hookOf(v)
		if assumed != "" && v.Family == nft.Inet {
			hook.Assumed = append(hook.Assumed, assumed)
		}
		t.Hooks, t.Verdict = append(t.Hooks, hook), hook.Verdict
	}
	flows, all, revoked, err := s.options.Kernel.FlowsOf(ctx, p, s.options.Choices.RevokedMark, answers.MaxFlows)
	if err != nil {
		t.FlowsError = err.Error()
		return t, nil
	}
	t.FlowCount, t.RevokedCount = all, revoked
	for _, f := range flows {
		flow := answers.Flow{Source: f.Source, Destination: f.Destination, Revoked: f.Revoked, Ended: f.Ended}
		if f.Addressed != f.Destination {
			flow.Addressed = f.Addressed
		}
		t.Flows = append(t.Flows, flow)
	}
	return t, nil
}

var verdicts = map[nft.Action]answers.Verdict{nft.Accept: answers.Pass, nft.Drop: answers.Drop, nft.Reject: answers.Reject}

func hookOf(v nft.Visited) answers.Hook {
	h := answers.Hook{Family: v.Family.String(), Hook: v.Hook.String(), Table: v.Table, Verdict: verdicts[v.Verdict], Assumed: v.Assumed}
	for _, step := range v.Steps {
		h.Steps = append(h.Steps, answers.Step{Chain: step.Chain, Handle: step.Handle, Comment: step.Comment, Action: step.Action()})
	}
	return h
}
