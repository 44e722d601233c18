package ruleset_test

import (
	"math/rand"
	"testing"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/random"
)

// stagedTables are the two tables of a random cluster, and that of the cluster with all policies in force.
func stagedTables(seed int64, o ruleset.Options) (r *rand.Rand, s policy.Snapshot, now, staged, enforced *ruleset.Table) {
	r = rand.New(rand.NewSource(seed))
	s = random.Snapshot(random.History(r, 80))
	if seed%2 == 0 {
		s = random.Cluster(r, 12, 8)
	}
	intentOf := func(intent policy.Intent, _ []policy.Problem) policy.Intent { return intent }
	now = ruleset.Build(intentOf(policy.Compile(s, random.Node)), o)
	staged = ruleset.Build(intentOf(policy.CompileStaged(s, random.Node)), o.ForStaged())
	enforced = ruleset.Build(intentOf(policy.Compile(random.Enforced(s), random.Node)), o)
	return r, s, now, staged, enforced
}

// TestStagedTableDeniesNothing: whatever the staged policies are, no rule of the staged table drops or rejects.
func TestStagedTableDeniesNothing(t *testing.T) {
	rules := 0
	for seed := range random.Seeds(*seed, *histories) {
		_, _, _, staged, _ := stagedTables(seed, ruleset.Options{Reject: seed%2 == 0, AllowToNode: seed%3 == 0, RevokedMark: uint32(seed % 2), LongRun: int(seed % 4), LogGroup: uint16(seed % 3)})
		for _, chain := range staged.Chains {
			for _, rule := range chain.Rules {
				rules++
				if rule.Verdict.Action == nft.Drop || rule.Verdict.Action == nft.Reject || rule.Verdict.Action == nft.Masquerade {
					t.Fatalf("seed %d, chain %s: %s", seed, chain.Name, rule)
				}
			}
		}
		for _, set := range staged.Sets {
			for _, verdict := range set.Verdicts {
				if verdict.Action != nft.Jump {
					t.Fatalf("seed %d, map %s: %v", seed, set.Name, verdict)
				}
			}
		}
	}
	if rules == 0 {
		t.Error("no rule seen")
	}
}

// TestStagedEqualsEnforced: of what passes, the staged table would have denied what the table denies once the
// staged policies are in force, and nothing else. Of what is denied, it says the same of the direction that denies it.
func TestStagedEqualsEnforced(t *testing.T) {
	passes, wouldDeny, wouldAllow := 0, 0, 0
	for seed := range random.Seeds(*seed, *histories) {
		o := ruleset.Options{AllowToNode: seed%3 == 0, RevokedMark: uint32(seed % 2), LongRun: int(seed % 4), LogGroup: uint16(seed % 2 * 28774)}
		r, s, now, staged, enforced := stagedTables(seed, o)
		for range 300 {
			p := random.Packet(r, s)
			hook, there := random.Hook(s, p)
			if !there {
				continue
			}
			packet := nft.TracePacket{Packet: p, State: nft.New, Midstream: r.Intn(4) == 0}
			is, will := now.Trace(hook, packet), enforced.Trace(hook, packet)
			says := map[policy.Direction]ruleset.Staged{}
			would := false
			for _, d := range policy.Directions {
				if d == policy.Ingress && hook == nft.Input {
					continue
				}
				says[d] = staged.StagedVerdict(d, hook, packet)
				would = would || says[d].Denial != nil
			}
			if is.Verdict == nft.Accept {
				if passes++; would != (will.Verdict != nft.Accept) {
					t.Fatalf("seed %d: %s at %s passes, and with all in force it gets %v, but the staged table says %+v\n%s\n%s", seed, p, hook, will.Verdict, says, staged.Trace(hook, packet), will)
				}
				if would {
					wouldDeny++
				}
				continue
			}
			direction, reason := ruleset.ReasonOf(is.Steps[denyingStep(is)].Rule)
			d := map[flows.Direction]policy.Direction{flows.Egress: policy.Egress, flows.Ingress: policy.Ingress}[direction]
			if direction == "" || reason == flows.Invalid || !says[d].Rehearsed || says[d].Denial != nil {
				continue
			}
			wouldAllow++
			if will.Verdict != nft.Accept {
				if by, _ := ruleset.ReasonOf(will.Steps[denyingStep(will)].Rule); by == direction {
					t.Fatalf("seed %d: %s at %s would be allowed in direction %s, but with all in force it is denied there:\n%s", seed, p, hook, direction, will)
				}
			}
		}
	}
	t.Logf("%d pass, of which %d would be denied; %d are denied that would be allowed", passes, wouldDeny, wouldAllow)
	if passes < 1000 || wouldDeny < 300 || wouldAllow < 20 {
		t.Error("too few to tell")
	}
}

// denyingStep is the step of the rule that denies a packet: what tells of it comes behind.
func denyingStep(tr nft.Trace) int {
	for i := len(tr.Steps) - 1; i > 0; i-- {
		if !tells(tr.Steps[i].Chain) {
			return i
		}
	}
	return 0
}
