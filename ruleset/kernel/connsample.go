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
	// now is when they are asked about.
	began, now    time.Time
	arrived, told int
}

// shortest is the shortest time of which the rate is believed: a burst is not a rate.
const shortest = 100 * time.Millisecond

func newConnSample(limit int) *connSample {
	return &connSample{limit: limit, seed: maphash.MakeSeed(), of: 1}
}

// at says what time it is, before events are asked about. Each second, the sample is made anew by how many
// events the last one had; but it no more than doubles in a second, as the next burst may be about to come.
func (s *connSample) at(now time.Time) {
	s.now = now
	passed := now.Sub(s.began)
	if passed < time.Second {
		return
	}
	s.of = max(s.enough(), s.of>>min(int64(passed/time.Second), 31))
	s.began, s.arrived, s.told = now, 0, 0
}

// enough is of how many connections one has to be told, at the rate at which events have arrived since began.
func (s *connSample) enough() uint32 {
	rate, of := float64(s.arrived)/max(s.now.Sub(s.began), shortest).Seconds(), uint32(1)
	for rate/float64(of) > float64(s.limit) && of < 1<<31 {
		of *= 2
	}
	return of
}

// has reports whether the connection with a tuple is told. When limit events were told within a second, the
// sample becomes as small as the rate until then asks for, and halves again whenever as many as half of that
// were told by it.
func (s *connSample) has(tuple []byte) bool {
	s.arrived++
	if !s.in(tuple) {
		return false
	}
	if s.told++; s.told <= s.limit || s.of == 1<<31 {
		return true
	}
	s.of, s.told = max(2*s.of, s.enough()), s.limit/2
	return s.in(tuple)
}

func (s *connSample) in(tuple []byte) bool {
	return s.of == 1 || uint32(maphash.Bytes(s.seed, tuple))&(s.of-1) == 0
}
