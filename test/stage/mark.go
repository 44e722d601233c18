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
	n := uint64(number) // an int may have 32 bits
	m := append(make([]byte, 0, MarkSize), magic...)
	return append(binary.BigEndian.AppendUint16(m, uint16(n>>32)), byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// ReadMark returns the number of the first mark in b, and what is behind it.
func ReadMark(b []byte) (number int, rest []byte, found bool) {
	i := bytes.Index(b, []byte(magic))
	if i < 0 || len(b) < i+MarkSize {
		return 0, nil, false
	}
	rest = b[i+len(magic):]
	return int(uint64(binary.BigEndian.Uint16(rest))<<32 | uint64(binary.BigEndian.Uint32(rest[2:]))), rest[6:], true
}
