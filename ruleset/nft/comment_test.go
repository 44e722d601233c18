package nft_test

import (
	"strings"
	"testing"

	"github.com/podfence/podfence/ruleset/nft"
)

func TestComment(t *testing.T) {
	if have := nft.Comment(`a "b"`); have != `a 'b'` {
		t.Error(have)
	}
	if have := nft.Comment(strings.Repeat("x", 500)); len(have) != nft.MaxComment || !strings.HasSuffix(have, "...") {
		t.Error(have)
	}
}
