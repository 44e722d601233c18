package cli

import (
	"runtime"
	"testing"
)

// TestRaiseThreads: there are never few threads, unless somebody has said so.
func TestRaiseThreads(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	for _, c := range []struct {
		env       string
		has, want int
	}{
		{"", 1, leastThreads}, {"", leastThreads, leastThreads}, {"", 2 * leastThreads, 2 * leastThreads}, {"1", 1, 1},
	} {
		t.Setenv("GOMAXPROCS", c.env)
		runtime.GOMAXPROCS(c.has)
		raiseThreads()
		if have := runtime.GOMAXPROCS(0); have != c.want {
			t.Errorf("of %d with GOMAXPROCS=%q: %d, want %d", c.has, c.env, have, c.want)
		}
	}
}
