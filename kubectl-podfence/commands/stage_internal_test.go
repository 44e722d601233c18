package commands

import (
	"io"
	"strings"
	gotesting "testing" // the package has a type of that name
)

// TestConfirmed: only who says yes has said yes.
func TestConfirmed(t *gotesting.T) {
	for answer, want := range map[string]bool{"y\n": true, "YES\n": true, " yes": true, "n\n": false, "\n": false, "": false, "yy\n": false, "no\ny\n": false} {
		if got := confirmed(strings.NewReader(answer), io.Discard, "Sure?"); got != want {
			t.Errorf("%q: %t", answer, got)
		}
	}
}
