package kernel

import (
	"encoding/binary"
	"testing"
	"time"
)

// TestConnSample: as long as no more events come than are to be told, all are. Of more, it tells one in so
// many, about as many as it is to, and a connection that a sample has is in every larger one.
func TestConnSample(t *testing.T) {
	const limit = 1000
	s := newConnSample(limit)
	now := time.Unix(1_800_000_000, 0)
	// second is how many of a second's events are told, each of another connection.
	second := func(events int) (told int) {
		s.at(now)
		defer func(began time.Time) { now = began.Add(time.Second) }(now)
		for n := range events {
			now = now.Add(time.Second / time.Duration(events+1))
			s.at(now)
			if s.has(binary.NativeEndian.AppendUint64(nil, uint64(n))) {
				told++
			}
		}
		return told
	}
	for _, events := range []int{0, 1, limit, limit} {
		if told := second(events); told != events || s.of != 1 {
			t.Errorf("of %d events, %d are told, one of %d", events, told, s.of)
		}
	}
	if told := second(16 * limit); told < limit || told > 3*limit || s.of < 8 {
		t.Errorf("in the first second with too many, %d are told, one of %d", told, s.of)
	}
	for range 3 {
		if told := second(16 * limit); told < limit/2 || told > 3*limit/2 || s.of != 16 && s.of != 32 {
			t.Errorf("of %d events a second, %d are told, one of %d", 16*limit, told, s.of)
		}
	}
	second(limit / 2) // whose sample is by the second before
	was := s.of
	if second(limit / 2); s.of != was/2 {
		t.Errorf("after a second with few, one of %d is told, and one of %d was", s.of, was)
	}
	for range 5 {
		second(limit / 2)
	}
	if told := second(limit / 2); told != limit/2 || s.of != 1 {
		t.Errorf("after seconds with few, %d of %d are told, one of %d", told, limit/2, s.of)
	}

	second(16 * limit)
	now = now.Add(time.Minute)
	if told := second(limit); told != limit || s.of != 1 {
		t.Errorf("after a quiet minute %d of %d are told, one of %d", told, limit, s.of)
	}

	// Both ends of a connection, in samples that nest.
	of := func(of uint32, connection uint64) bool {
		s.of, s.told, s.limit = of, 0, 1<<30
		return s.has(binary.NativeEndian.AppendUint64(nil, connection))
	}
	in := 0
	for connection := range uint64(4096) {
		if of(64, connection) {
			in++
			if !of(64, connection) || !of(32, connection) || !of(2, connection) || !of(1, connection) {
				t.Fatalf("connection %d is in a sample and not in a larger one", connection)
			}
		}
	}
	if in < 32 || in > 128 {
		t.Errorf("one of 64 connections is %d of 4096", in)
	}
}
