package kernel_test

import (
	"fmt"
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
		// One that nft cannot load is skipped, and no other.
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { expectHeld(t, seed) })
	}
}

// expectHeld goes through one history.
func expectHeld(t *testing.T, seed int64) {
	have, want := newNamespace(t), newNamespace(t)
	c := have.open()
	m := policy.NewModel(random.Node)
	table := ruleset.Build(m.Intent(), ruleset.Options{Reject: seed%2 == 0, Guard: seed%4 == 0, Masquerade: seed%4 == 0, LongRun: int(seed % 3)})
	if err := c.Apply(table.Replacement()); err != nil {
		t.Fatal(err)
	}
	history := random.Hostile(random.Tape(seed), nil)
	for i, event := range history {
		m.Apply(event.Change())
		if i%3 == 2 || i == len(history)-1 {
			plan := table.Update(m.Take())
			if err := c.Apply(plan); err != nil {
				t.Fatalf("event %d: %v\n%s", i, err, plan.Text())
			}
		}
	}
	updated := slices.Sorted(strings.Lines(have.list()))
	if err := c.Apply(table.Replacement()); err != nil {
		t.Fatal(err)
	}
	if replaced := slices.Sorted(strings.Lines(have.list())); !slices.Equal(updated, replaced) {
		t.Fatalf("updated, the kernel lists\n%s\nand replaced\n%s", updated, replaced)
	}
	want.load(table.Text())
	if expectSame(t, have, want); t.Failed() {
		t.Fatal(table.Text())
	}
}
