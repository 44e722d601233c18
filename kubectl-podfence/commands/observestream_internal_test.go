package commands

import (
	gotesting "testing" // the package has a type of that name
	"time"

	"github.com/podfence/podfence/api/flows"
)

// TestHeldBack: a flow is held back for a while after it was read, and those before it are written with it.
func TestHeldBack(t *gotesting.T) {
	now := time.Unix(1000, 0)
	held := func(seen, readBefore time.Duration) heldFlow {
		return heldFlow{&flows.Flow{Time: now.Add(seen)}, now.Add(-readBefore)}
	}
	for name, c := range map[string]struct {
		held []heldFlow
		want int
	}{
		"nothing":                     {nil, 0},
		"read just now":               {[]heldFlow{held(0, 0), held(1, window-1)}, 0},
		"long enough":                 {[]heldFlow{held(0, window), held(1, window-1)}, 1},
		"what was before goes along":  {[]heldFlow{held(2, window), held(1, 0), held(3, 0)}, 2},
		"all, however late they came": {[]heldFlow{held(5, window), held(1, 0), held(2, 0), held(3, 0)}, 4},
	} {
		o := &observation{held: c.held}
		if got := o.due(now); got != c.want {
			t.Errorf("%s: %d are due, want %d", name, got, c.want)
		}
	}
}
