package kernel

import (
	"hash/maphash"
	"time"
)

// connSample chooses which connections are told when more events arrive than somebody wants to hear. A
// connection is in the sample by a hash of its tuple, so that its beginning and its end are both told or
// both not. One of how many is told is a power of two: who is in a sample is in every larger one as well.
// It is for one goroutine.
type connSample struct {
	// limit is how many events a second are to be told at most.
	limit int
	seed  maphash.Seed
	// of says that one of so many connections is told.
	of uint32
	// arrived are all events since began, and told those of them that were told since of was last changed.
	began         time.Time
	arrived, told int
}

func newConnSample(limit int) *connSample {
	return &connSample{limit: limit, seed: maphash.MakeSeed(), of: 1}
}

// at says what time it is, before events are asked about. Each second, the sample is made anew by how many
// events the last one had.
func (s *connSample) at(now time.Time) {
	passed := now.Sub(s.began)
	if passed < time.Second {
		return
	}
	s.of = 1
	for rate := float64(s.arrived) / passed.Seconds(); rate/float64(s.of) > float64(s.limit); {
		s.of *= 2
	}
	s.began, s.arrived, s.told = now, 0, 0
}

// has reports whether the connection with a tuple is told. Within a second in which events become more, the
// sample halves whenever limit events were told by it.
func (s *connSample) has(tuple []byte) bool {
	s.arrived++
	if s.of > 1 && uint32(maphash.Bytes(s.seed, tuple))&(s.of-1) != 0 {
		return false
	}
	if s.told++; s.told > s.limit && s.of < 1<<31 {
		s.of, s.told = 2*s.of, 1
		return uint32(maphash.Bytes(s.seed, tuple))&(s.of-1) == 0
	}
	return true
}
