package stage

import (
	"bytes"
	"encoding/binary"
)

// MarkSize is the length of a mark, which lets neighbour discovery have it in an option.
const MarkSize = 14

const magic = "pF paths"

// Mark is what says which frame it is in.
func Mark(number int) []byte {
	m, n := append(make([]byte, 0, MarkSize), magic...), uint64(number)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(m, uint16(n>>32)), uint32(n))
}

// ReadMark returns the number of the first mark in b, and what is behind it.
func ReadMark(b []byte) (number int, rest []byte, found bool) {
	i := bytes.Index(b, []byte(magic))
	if i < 0 || len(b) < i+MarkSize {
		return 0, nil, false
	}
	rest = b[i+len(magic):]
	n := uint64(binary.BigEndian.Uint16(rest))<<32 | uint64(binary.BigEndian.Uint32(rest[2:]))
	return int(n), rest[6:], true
}
