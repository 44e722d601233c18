package cli

import (
	"math"
	"runtime/debug"
	"testing"
	"testing/fstest"

	"github.com/go-logr/logr"
)

// TestLimitMemory: Go keeps below the cgroup's limit, if there is one, and nobody has
// said otherwise.
func TestLimitMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	for _, c := range []struct {
		file, text, env string
		want            int64
	}{
		{"memory.max", "1073741824\n", "", 640 << 20},
		{"memory/memory.limit_in_bytes", "1073741824\n", "", 640 << 20},
		{"memory.max", "1073741824\n", "1GiB", math.MaxInt64},
		{"memory.max", "max\n", "", math.MaxInt64},
		{"memory/memory.limit_in_bytes", "9223372036854771712\n", "", math.MaxInt64},
		{"memory.max", "0\n", "", math.MaxInt64},
		{"other", "1\n", "", math.MaxInt64},
	} {
		debug.SetMemoryLimit(math.MaxInt64)
		t.Setenv("GOMEMLIMIT", c.env)
		limitMemory(logr.Discard(), fstest.MapFS{c.file: {Data: []byte(c.text)}})
		if have := debug.SetMemoryLimit(-1); have != c.want {
			t.Errorf("%s of %q with GOMEMLIMIT=%q: %d, want %d", c.file, c.text, c.env, have, c.want)
		}
	}
}
