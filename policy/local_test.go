package policy_test

import (
	"cmp"
	"math/rand"
	"slices"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// TestLocals: by deltas, a node's addresses come to the same as by its whole intent.
func TestLocals(t *testing.T) {
	inOrder := func(l *policy.Locals) []policy.LocalAddr {
		return slices.SortedFunc(slices.Values(l.Addrs()), func(a, b policy.LocalAddr) int { return a.Addr.Compare(b.Addr) })
	}
	behind := 0
	for seed := range random.Seeds(*seed, *histories/3) {
		r := rand.New(rand.NewSource(seed))
		history := random.History(r, 60)
		for i, event := range history {
			if a := event.Attachment; a != nil && i%3 > 0 { // others are another plugin's
				a.HostInterface = "pf" + a.ContainerID
			}
		}
		m := policy.NewModel(random.Node)
		have := policy.NewLocals(m.Intent())
		for i, event := range history {
			m.Apply(event.Change())
			if r.Intn(5) > 0 {
				continue
			}
			for staging := true; staging; staging = m.Staging() {
				have.Apply(m.Take())
			}
			intent, _ := policy.Compile(random.Snapshot(history[:i+1]), random.Node)
			want := inOrder(policy.NewLocals(intent))
			if diff := differ(want, inOrder(have)); diff != "" {
				t.Fatalf("seed %d, after %d events (-want +have):\n%s", seed, i+1, diff)
			}
			for _, local := range want {
				behind += cmp.Compare(len(local.HostInterface), 0)
			}
		}
	}
	if behind == 0 {
		t.Error("no address was ever at a link that is known")
	}
}
