package dns

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// stream makes messages of one direction of a TCP connection, each with its length in two octets before it (RFC 1035 section
// 4.2.2). It must see the SYN; from then on segments may come in any order, and more than once. Of octets that come more
// than once the first count.
type stream struct {
	// started: the SYN was seen; lost: more was missing than is kept.
	started, lost bool
	// first is the sequence number of the first octet, and next of the next one that is not known.
	first, next uint32
	// partial is the beginning of a message.
	partial []byte
	// ahead is what came before its time, in order.
	ahead []segment
}

type segment struct {
	sequence uint32
	data     []byte
}

// What a stream keeps of segments that came before their time: as many octets as a window without scaling has (RFC 9293
// section 3.1), and not more segments than that in order.
const (
	maxAheadOctets = 1 << 16
	maxAhead       = 64
)

// start begins anew behind a SYN, unless that is the one that was seen.
func (s *stream) start(syn uint32) {
	if !s.startedBy(syn) {
		*s = stream{started: true, first: syn + 1, next: syn + 1}
	}
}

func (s *stream) startedBy(syn uint32) bool { return s.started && s.first == syn+1 }

// add takes a segment in, and calls each with the messages that are whole by it. It returns false if it cannot follow.
func (s *stream) add(sequence uint32, data []byte, each func(message []byte)) bool {
	switch {
	case len(data) == 0:
		return true
	case !s.started || s.lost:
		return false
	case after(sequence, s.next) > 0:
		return s.keep(sequence, data)
	}
	s.take(sequence, data, each)
	for len(s.ahead) > 0 && after(s.ahead[0].sequence, s.next) <= 0 {
		s.take(s.ahead[0].sequence, s.ahead[0].data, each)
		s.ahead = s.ahead[1:]
	}
	if len(s.ahead) == 0 {
		s.ahead = nil
	}
	return true
}

// after is how far a sequence number is behind another; they wrap around (RFC 9293 section 3.4).
func after(sequence, other uint32) int { return int(int32(sequence - other)) }

// take takes in what is new of a segment that begins at the next octet, or before it.
func (s *stream) take(sequence uint32, data []byte, each func(message []byte)) {
	known := -after(sequence, s.next)
	if known >= len(data) {
		return
	}
	data = data[known:]
	s.next += uint32(len(data))
	before := len(s.partial)
	if before > 0 {
		s.partial = append(s.partial, data...)
		data = s.partial
	}
	rest := data
	for len(rest) >= 2 {
		end := 2 + int(binary.BigEndian.Uint16(rest))
		if len(rest) < end {
			break
		}
		each(rest[2:end])
		rest = rest[end:]
	}
	if before == 0 || len(rest) < len(data) {
		// Clone keeps an empty slice that is not nil, with what it was part of.
		if s.partial = nil; len(rest) > 0 {
			s.partial = bytes.Clone(rest)
		}
	}
}

// keep keeps a segment for later.
func (s *stream) keep(sequence uint32, data []byte) bool {
	at, found := slices.BinarySearchFunc(s.ahead, sequence, func(have segment, sequence uint32) int { return after(have.sequence, sequence) })
	if found {
		if len(data) > len(s.ahead[at].data) {
			s.ahead[at].data = bytes.Clone(data)
		}
	} else {
		s.ahead = slices.Insert(s.ahead, at, segment{sequence: sequence, data: bytes.Clone(data)})
	}
	if len(s.ahead) > maxAhead || s.aheadOctets() > maxAheadOctets {
		*s = stream{started: true, lost: true, first: s.first}
	}
	return !s.lost
}

func (s *stream) aheadOctets() (octets int) {
	for _, kept := range s.ahead {
		octets += len(kept.data)
	}
	return octets
}

// octets is about how much memory it takes.
func (s *stream) octets() int { return cap(s.partial) + segmentOctets*cap(s.ahead) + s.aheadOctets() }

const segmentOctets = 32
