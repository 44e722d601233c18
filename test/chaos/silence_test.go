package chaos

import (
	"sync/atomic"
	"testing"
	"time"
)

// silence is how long to listen for packets that must not come, once one that had to come,
// and was sent after them, is there: as long as the slowest of such took, and never less
// than leastSilence. A busy machine is slow for both. It may be used from any goroutine.
type silence struct{ slowest atomic.Int64 } // nanoseconds

const leastSilence = 20 * time.Millisecond

// heard notes how long a packet took that had to come.
func (s *silence) heard(took time.Duration) {
	for slowest := s.slowest.Load(); int64(took) > slowest && !s.slowest.CompareAndSwap(slowest, int64(took)); {
		slowest = s.slowest.Load()
	}
}

func (s *silence) lasts() time.Duration { return max(leastSilence, time.Duration(s.slowest.Load())) }

func TestSilence(t *testing.T) {
	var s silence
	for _, c := range []struct{ heard, lasts time.Duration }{
		{time.Millisecond, leastSilence}, {3 * time.Second, 3 * time.Second}, {time.Second, 3 * time.Second},
	} {
		if s.heard(c.heard); s.lasts() != c.lasts {
			t.Errorf("with %s, it lasts %s, want %s", c.heard, s.lasts(), c.lasts)
		}
	}
}
