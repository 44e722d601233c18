package report

import (
	"slices"
	"testing"
)

func TestShort(t *testing.T) {
	all := make([]string, spelledOut+2)
	if got := Short(slices.Clone(all)); len(got) != spelledOut+1 || got[spelledOut] != "and 2 more" {
		t.Errorf("%q", got)
	}
	if got := Short(slices.Clone(all[:spelledOut])); len(got) != spelledOut {
		t.Errorf("%q", got)
	}
}
