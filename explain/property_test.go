package explain_test

import (
	"flag"
	"math/rand"
	"slices"
	"testing"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/random"
)

var (
	questions = flag.Int("questions", 10_000, "how many random questions are asked")
	seed      = flag.Int64("seed", 1, "the first seed")
)

// TestAgreesWithJudgeAndTable asks random questions about random clusters of both APIs. The answer must be
// that of policy.Judge, who sees the whole cluster, and on the node that enforces it that of the compiled
// table. A rule has no near miss if and only if it allows the packet according to Judge.
func TestAgreesWithJudgeAndTable(t *testing.T) {
	asked, denied, missed, traced, ports, turned := 0, 0, 0, 0, 0, 0
	for s := *seed; asked < *questions; s++ {
		r := rand.New(rand.NewSource(s))
		cluster := &explain.Cluster{Snapshot: random.Cluster(r, 12, 8), NamesKnown: true}
		cluster.Resolutions = random.Resolutions(r, 12)
		cluster.Node, cluster.Attachments, cluster.LastPodCIDRs = "", nil, nil // what only the node knows
		view := cluster.Snapshot
		view.Node = random.Node
		x := explain.New(cluster, policy.JudgeOptions{})
		intent, _ := policy.Compile(cluster.Snapshot, random.Node)
		table := ruleset.Build(intent, ruleset.Options{})
		for range 60 {
			p := random.Packet(r, cluster.Snapshot)
			if p.DstPort == 0 || p.Protocol != policy.TCP && p.Protocol != policy.UDP && p.Protocol != policy.SCTP || p.Hairpin || p.HopByHop || p.Extended {
				continue
			}
			p.HopLimit = 64
			q := explain.Question{
				From: explain.Target{Kind: explain.KindAddress, Address: p.Src}, To: explain.Target{Kind: explain.KindAddress, Address: p.Dst},
				Port: explain.Port{Protocol: p.Protocol, Number: p.DstPort},
			}
			e, err := x.Explain(q)
			if err != nil {
				t.Fatalf("seed %d: %s: %v", s, q, err)
			}
			want := policy.Judge(cluster.Snapshot, p, policy.JudgeOptions{})
			if len(e.Answers) != 1 || (e.Verdict == explain.Allowed) != want.Allowed() {
				t.Fatalf("seed %d: %s: explained as %s (%d answers), Judge says %s", s, q, e.Verdict, len(e.Answers), want)
			}
			asked++
			a := e.Answers[0]
			turned += sameStaged(t, s, x, cluster.Snapshot, p, q, a)
			for _, at := range []struct {
				d    policy.Direction
				side explain.Side
				j    policy.Judgement
			}{{policy.Egress, a.Egress, want.Egress}, {policy.Ingress, a.Ingress, want.Ingress}} {
				sameSide(t, s, q, at.side, at.j)
				everyRuleMisses(t, s, q, cluster.Snapshot, at.d, at.side, at.j)
				if at.side.Verdict == explain.Denied {
					denied++
					missed += len(at.side.NearestMisses)
				}
			}
			if hook, seen := random.Hook(cluster.Snapshot, p); seen && p.Src.IsGlobalUnicast() && p.Dst.IsGlobalUnicast() {
				trace := table.Trace(hook, nft.TracePacket{Packet: p, State: nft.New})
				// Of an address that several pods show, the node believes its own.
				if at := policy.Judge(view, p, policy.JudgeOptions{}).At(random.Node); at != want.At(random.Node) {
					continue
				}
				if (trace.Verdict == nft.Accept) != passesAt(a, random.Node) {
					t.Fatalf("seed %d: %s: the table says\n%s\nand the explanation\n%+v", s, q, trace, a)
				}
				traced++
			}
			if asked%20 == 0 {
				ports += samePorts(t, s, x, cluster.Snapshot, q)
			}
		}
	}
	t.Logf("%d questions, %d sides denied, %d near misses, %d traced, %d ports compared, %d turned by staged policies", asked, denied, missed, traced, ports, turned)
	if turned < asked/200 {
		t.Errorf("staged policies have turned %d verdicts: too few", turned)
	}
	if denied < asked/10 || missed < asked/20 || traced < asked/2 {
		t.Error("too few of them were denied, had near misses or were traced")
	}
}

// sameStaged holds what is said of staged policies against Judge with them in force, and returns 1 if they turn the
// verdict.
func sameStaged(t *testing.T, seed int64, x *explain.Explainer, s policy.Snapshot, p policy.Packet, q explain.Question, a explain.Answer) int {
	t.Helper()
	now, with := policy.Judge(s, p, policy.JudgeOptions{}), policy.Judge(s, p, policy.JudgeOptions{StagedInForce: true})
	about := len(with.Egress.Isolating) + len(with.Egress.Selecting) + len(with.Ingress.Isolating) + len(with.Ingress.Selecting) -
		len(now.Egress.Isolating) - len(now.Egress.Selecting) - len(now.Ingress.Isolating) - len(now.Ingress.Selecting)
	if got := len(a.Egress.Staged) + len(a.Ingress.Staged); got != about {
		t.Fatalf("seed %d: %s: %d staged policies are about it, want %d: %+v", seed, q, got, about, a)
	}
	if (a.WithStaged != nil) != (about > 0) {
		t.Fatalf("seed %d: %s: with %d staged policies, %+v", seed, q, about, a.WithStaged)
	}
	for _, at := range []struct {
		side explain.Side
		j    policy.Judgement
	}{{a.Egress, with.Egress}, {a.Ingress, with.Ingress}} {
		if at.side.WithStaged != nil && ((at.side.WithStaged.Verdict == explain.Allowed) != at.j.Allowed || at.side.WithStaged.Reason == "") {
			t.Fatalf("seed %d: %s: with the staged policies in force %+v, Judge says %s", seed, q, at.side.WithStaged, at.j)
		}
	}
	if a.WithStaged != nil && (a.WithStaged.Verdict == explain.Allowed) != with.Allowed() {
		t.Fatalf("seed %d: %s: with the staged policies in force %+v, Judge says %s", seed, q, a.WithStaged, with)
	}
	if e, err := x.WithStaged().Explain(q); err != nil || (e.Verdict == explain.Allowed) != with.Allowed() || e.Answers[0].WithStaged != nil {
		t.Fatalf("seed %d: %s: asked with the staged policies in force: %+v, %v, Judge says %s", seed, q, e, err, with)
	}
	if now.Allowed() != with.Allowed() {
		return 1
	}
	return 0
}

// passesAt reports whether an answer says that a node lets the packet pass.
func passesAt(a explain.Answer, node string) bool {
	passes := func(s explain.Side) bool {
		return s.Verdict == explain.Allowed || s.EnforcedAt != node && s.EnforcedAt != ""
	}
	return passes(a.Egress) && passes(a.Ingress)
}

// sameSide holds a side against Judge's part of it.
func sameSide(t *testing.T, seed int64, q explain.Question, side explain.Side, j policy.Judgement) {
	t.Helper()
	decided := j.By
	if !j.Allowed {
		decided = j.DeniedBy
	}
	if (side.Verdict == explain.Allowed) != j.Allowed || len(side.Rules) != len(decided) || len(side.Policies) != len(j.Isolating)+len(j.Selecting) {
		t.Fatalf("seed %d: %s: explained as %+v, Judge says %s", seed, q, side, j)
	}
	for i, ref := range decided {
		if got := side.Rules[i]; got.Policy.Name != ref.Policy.Name || got.Policy.Namespace != ref.Policy.Namespace {
			t.Fatalf("seed %d: %s: rule %+v is not %s", seed, q, got, ref)
		}
	}
	if side.Reason == "" {
		t.Fatalf("seed %d: %s: no reason for %+v", seed, q, side)
	}
	for _, miss := range side.NearestMisses {
		if len(miss.Failed) == 0 {
			t.Fatalf("seed %d: %s: %+v misses nothing", seed, q, miss)
		}
	}
}

// everyRuleMisses holds that of a pod which is isolated by NetworkPolicies alone, and denied by them, each
// rule has something that does not mean the packet: as Judge, who found none that does.
func everyRuleMisses(t *testing.T, seed int64, q explain.Question, s policy.Snapshot, d policy.Direction, side explain.Side, j policy.Judgement) {
	t.Helper()
	if j.Allowed || len(j.Isolating) == 0 || len(j.Selecting) > 0 || len(policy.HolderOf(s, q.From.Address).Pods) > 1 || len(policy.HolderOf(s, q.To.Address).Pods) > 1 {
		return
	}
	rules := 0
	for _, np := range s.Policies {
		if !slices.Contains(j.Isolating, policy.Key{Namespace: np.Namespace, Name: np.Name}) {
			continue
		}
		if d == policy.Ingress {
			rules += len(np.Spec.Ingress)
		} else {
			rules += len(np.Spec.Egress)
		}
	}
	if want := min(rules, 5); len(side.NearestMisses) != want {
		t.Fatalf("seed %d: %s: %d near misses of %d rules: %+v", seed, q, len(side.NearestMisses), rules, side)
	}
}

// samePorts asks which ports are open, and holds that against Judge at the ports that rules have, and
// beside them. It returns at how many.
func samePorts(t *testing.T, seed int64, x *explain.Explainer, s policy.Snapshot, q explain.Question) (compared int) {
	t.Helper()
	q.Port = explain.Port{}
	e, err := x.Explain(q)
	if err != nil {
		t.Fatalf("seed %d: %s: %v", seed, q, err)
	}
	open := map[string]func(uint16) bool{}
	for _, a := range e.Answers {
		for _, p := range a.Open {
			open[p.Protocol] = inRanges(t, p.Ports)
		}
	}
	others := []policy.Packet{{Protocol: 47}, {Protocol: 50}, {Protocol: policy.ICMP, ICMPType: 8}, {Protocol: policy.ICMPv6, ICMPType: 128}}
	for _, p := range others {
		p.Src, p.Dst, p.HopLimit = q.From.Address, q.To.Address, 64
		if got, want := open["other"] != nil, policy.Judge(s, p, policy.JudgeOptions{}).Allowed(); got != want {
			t.Fatalf("seed %d: %s: %s: explained as open: %t, Judge: %t", seed, q, p, got, want)
		}
		compared++
	}
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP, policy.SCTP} {
		for _, port := range []uint16{1, 22, 52, 53, 54, 79, 80, 81, 442, 443, 444, 1000, 5432, 7999, 8000, 8001, 8079, 8080, 8081, 8443, 9000, 9090, 32768, 65534, 65535} {
			p := policy.Packet{Src: q.From.Address, Dst: q.To.Address, Protocol: protocol, DstPort: port, HopLimit: 64}
			in := open[protocol.String()]
			if got, want := in != nil && in(port), policy.Judge(s, p, policy.JudgeOptions{}).Allowed(); got != want {
				t.Fatalf("seed %d: %s: port %d/%s: explained as open: %t, Judge: %t", seed, q, port, protocol, got, want)
			}
			compared++
		}
	}
	return compared
}
