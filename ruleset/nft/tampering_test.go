package nft_test

import (
	"testing"

	"github.com/podfence/podfence/ruleset/nft"
)

func TestTampering(t *testing.T) {
	for _, c := range []struct {
		changes []string
		want    string
	}{
		{nil, "not known: notices of changes were lost"},
		{[]string{"a"}, "a"},
		{[]string{"a", "a", "b"}, "a, b and 1 more"},
		{[]string{"a", "b", "c", "d", "e", "a"}, "a, b, c, d and 2 more"},
		{[]string{"a", "delete table inet podfence"}, "delete table inet podfence"},
		{[]string{"a", "delete table inet podfence", "b", "delete table bridge podfence", "add table inet podfence"},
			"delete table inet podfence, delete table bridge podfence, add table inet podfence"},
	} {
		var done nft.Tampering
		for _, change := range c.changes {
			done.Add(change)
		}
		if got := done.What(); got != c.want {
			t.Errorf("%q: %q, want %q", c.changes, got, c.want)
		}
	}
	if got := (nft.Tampering{}).Who(); got != "not known" {
		t.Errorf("nobody is %q", got)
	}
	if got := (nft.Tampering{Process: "nft", PID: 7}).Who(); got != "nft (process 7)" {
		t.Errorf("nft is %q", got)
	}
}
