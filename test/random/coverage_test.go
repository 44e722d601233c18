package random_test

import (
	"slices"
	"testing"

	"github.com/podfence/podfence/test/random"
)

// TestCoverage: a feature that no case has is missing, and the table has it first.
func TestCoverage(t *testing.T) {
	var c random.Coverage
	c.Count(map[string]bool{"often": true, "seldom": true, "never": false})
	c.Count(map[string]bool{"often": true, "seldom": false, "never": false})
	if missing := c.Missing(); !slices.Equal(missing, []string{"never"}) {
		t.Errorf("missing: %q", missing)
	}
	want := "of 1,000 coins, by 2:\n     0.0  never\n   500.0  seldom\n  1000.0  often"
	if table := c.Table("coins"); table != want {
		t.Errorf("the table is\n%s\nnot\n%s", table, want)
	}
}
