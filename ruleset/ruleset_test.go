package ruleset_test

import (
	"flag"
	"math/rand"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/random"
)

var (
	histories = flag.Int("histories", 100, "random histories that a property test goes through")
	seed      = flag.Int64("seed", 1, "seed of the first of them; the others follow")
)

// differ is how two tables differ. cmp takes long, so it is asked only where reflection sees a
// difference: that of the absent and the empty list is none.
func differ(want, have *nft.Table) string {
	if want.Family == have.Family && reflect.DeepEqual(want.Sets, have.Sets) && reflect.DeepEqual(want.Chains, have.Chains) {
		return ""
	}
	return cmp.Diff(want, have, cmpopts.IgnoreUnexported(nft.Table{}, nft.Set{}), cmpopts.EquateComparable(nft.SetType{}), cmpopts.EquateEmpty())
}

// TestUpdateEqualsBuild: a table that was kept up to date by deltas is the one
// that is built from scratch, and every plan on the way is one that the kernel
// takes: nothing added twice, used before it is there, or removed while used.
func TestUpdateEqualsBuild(t *testing.T) {
	testUpdateEqualsBuild(t, func() *policy.Model { return policy.NewModel(random.Node) }, policy.Compile, func(o ruleset.Options) ruleset.Options { return o })
}

// TestUpdateEqualsBuildStaged: so it is for the staged table.
func TestUpdateEqualsBuildStaged(t *testing.T) {
	testUpdateEqualsBuild(t, func() *policy.Model { return policy.NewModel(random.Node).NewStaged() }, policy.CompileStaged, ruleset.Options.ForStaged)
}

func testUpdateEqualsBuild(t *testing.T, empty func() *policy.Model, compile func(policy.Snapshot, string) (policy.Intent, []policy.Problem), options func(ruleset.Options) ruleset.Options) {
	for seed := range random.Seeds(*seed, *histories) {
		r := rand.New(rand.NewSource(seed))
		o := ruleset.Options{Reject: seed%2 == 0, AllowToNode: seed%3 == 0, Guard: seed%7 == 0, Masquerade: seed%5 < 2, RevokedMark: uint32(seed % 2), LongRun: int(seed % 4)}
		o = options(o)
		history := random.History(r, 60)
		m := empty()
		table := ruleset.Build(m.Intent(), o)
		fake := newFake(t)
		fake.apply(table.Replacement())
		now := random.Epoch
		for done := 0; done < len(history); {
			next := min(len(history), done+1+r.Intn(6))
			for _, event := range history[done:next] {
				m.Apply(event.Change())
				if r.Intn(2) == 0 {
					m.Apply(policy.Resolved([]policy.Resolution{random.Resolution(r, 12, now)}))
				}
			}
			if r.Intn(4) == 0 {
				now = now.Add(time.Duration(r.Intn(300)) * time.Second)
				m.Apply(policy.Elapsed(now))
			}
			done = next
			for first := true; first || m.Pending(); first = false {
				fake.apply(table.Update(m.Take()))
			}
			s := random.Snapshot(history[:done])
			s.Resolutions = m.Resolutions()
			intent, _ := compile(s, random.Node)
			want := ruleset.Build(intent, o)
			forgetLapsed(table)
			if diff := differ(&want.Table, &table.Table); diff != "" {
				t.Fatalf("seed %d after %d events (-built +updated):\n%s", seed, done, diff)
			}
			if diff := cmp.Diff(want.Text(), fake.text()); diff != "" || t.Failed() {
				t.Fatalf("seed %d after %d events: plans made another table (-want +have):\n%s", seed, done, diff)
			}
		}
		whole := newFake(t)
		whole.apply(table.Replacement())
		if diff := cmp.Diff(table.Text(), whole.text()); diff != "" {
			t.Fatalf("seed %d: the replacement makes another table:\n%s", seed, diff)
		}
	}
}

// forgetLapsed forgets what a table built from scratch does not know.
func forgetLapsed(t *ruleset.Table) {
	for _, set := range t.Sets {
		set.Lapsed = nil
	}
}

// TestUpdateNothing: a delta that changes nothing takes no operation.
func TestUpdateNothing(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	m := policy.NewModel(random.Node)
	history := random.History(r, 300)
	for _, event := range history {
		m.Apply(event.Change())
	}
	table := ruleset.Build(m.Intent(), ruleset.Options{})
	if plan := table.Update(m.Take()); !plan.Empty() {
		t.Errorf("no change takes\n%s", plan.Text())
	}
	for _, event := range random.Final(history) {
		m.Apply(event.Change())
	}
	if plan := table.Update(m.Take()); !plan.Empty() {
		t.Errorf("the same again takes\n%s", plan.Text())
	}
}

// TestTraceEqualsJudge: the table lets through what the verdict function,
// which reads the API objects on its own, says must pass.
func TestTraceEqualsJudge(t *testing.T) {
	allowed, denied := 0, 0
	for seed := range random.Seeds(*seed, *histories) {
		r := rand.New(rand.NewSource(seed))
		s := random.Snapshot(random.History(r, 80))
		if seed%2 == 0 {
			s = random.Cluster(r, 12, 8)
		}
		s.Resolutions = random.Resolutions(r, 12)
		o := ruleset.Options{AllowToNode: seed%3 == 0, LongRun: int(seed % 4)}
		intent, _ := policy.Compile(s, random.Node)
		table := ruleset.Build(intent, o)
		for range 300 {
			p := random.Packet(r, s)
			hook, there := random.Hook(s, p)
			if !there {
				continue
			}
			want := policy.Judge(s, p, policy.JudgeOptions{AllowToNode: o.AllowToNode}).At(random.Node)
			trace := table.Trace(hook, nft.TracePacket{Packet: p, State: nft.New})
			if got := trace.Verdict == nft.Accept; got != want {
				t.Fatalf("seed %d: %s at %s: trace says %v, verdict is %s\n%s\n%s", seed, p, hook, got,
					policy.Judge(s, p, policy.JudgeOptions{AllowToNode: o.AllowToNode}), trace, table.Text())
			}
			if want {
				allowed++
			} else {
				denied++
			}
		}
	}
	t.Logf("%d allowed, %d denied", allowed, denied)
	if allowed < 1000 || denied < 1000 {
		t.Errorf("%d allowed and %d denied packets are too few to tell", allowed, denied)
	}
}
