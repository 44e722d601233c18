package kernel_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/random"
)

// TestHostile has the kernel hold what objects come to that are valid by their Go
// types alone: it takes the table and every plan that changes it, and what it has in
// the end is what nft makes of the text. FuzzTable in ruleset goes through the same
// histories, and through many more.
func TestHostile(t *testing.T) {
	for seed := range int64(24) {
		have, want := newNamespace(t), newNamespace(t)
		c := have.open()
		m := policy.NewModel(random.Node)
		table := ruleset.Build(m.Intent(), ruleset.Options{Reject: seed%2 == 0, Guard: seed%4 == 0, Masquerade: seed%4 == 0})
		if err := c.Apply(table.Replacement()); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		history := random.Hostile(random.Tape(seed), nil)
		for i, event := range history {
			event.Feed(m)
			if i%3 == 2 || i == len(history)-1 {
				plan := table.Update(m.Take())
				if err := c.Apply(plan); err != nil {
					t.Fatalf("seed %d, event %d: %v\n%s", seed, i, err, plan.Text())
				}
			}
		}
		updated := slices.Sorted(strings.Lines(have.list()))
		if err := c.Apply(table.Replacement()); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if replaced := slices.Sorted(strings.Lines(have.list())); !slices.Equal(updated, replaced) {
			t.Fatalf("seed %d: updated, the kernel lists\n%s\nand replaced\n%s", seed, updated, replaced)
		}
		want.load(table.Text())
		if expectSame(t, have, want); t.Failed() {
			t.Fatalf("seed %d:\n%s", seed, table.Text())
		}
	}
}
