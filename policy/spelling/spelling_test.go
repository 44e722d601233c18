package spelling_test

import (
	"testing"

	"github.com/podfence/podfence/policy/spelling"
)

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"web", "web", 0}, {"web", "wbe", 2}, {"web", "webb", 1},
		{"client", "cleint", 2}, {"pod", "job", 2}, {"kitten", "sitting", 3}, {"é", "e", 2},
	} {
		if got := spelling.Distance(test.a, test.b); got != test.want {
			t.Errorf("from %q to %q: %d, want %d", test.a, test.b, got, test.want)
		}
	}
}
