package bytecode

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"
)

// bits are bytes of which each bit is known or not. A bit of value that is not known is 0.
type bits struct{ value, known []byte }

func unknown(length int) bits { return bits{make([]byte, length), make([]byte, length)} }

func sure(value ...byte) bits { return bits{value, bytes.Repeat([]byte{0xff}, len(value))} }

// set sets bytes at an offset.
func (b bits) set(offset int, value ...byte) { b.setBits(offset, sure(value...)) }

func (b bits) setBits(offset int, part bits) {
	copy(b.value[offset:], part.value)
	copy(b.known[offset:], part.known)
}

func (b bits) slice(from, to int) bits { return bits{b.value[from:to], b.known[from:to]} }

// whole are the bytes; they are not known if a bit is not.
func (b bits) whole() ([]byte, bool) {
	for _, known := range b.known {
		if known != 0xff {
			return nil, false
		}
	}
	return b.value, true
}

// lowest and highest are what the bytes are at least, and at most.
func (b bits) lowest() []byte { return b.value }

func (b bits) highest() []byte {
	highest := bytes.Clone(b.value)
	for i, known := range b.known {
		highest[i] |= ^known
	}
	return highest
}

// differs reports whether a known bit is not that of the other bytes, so that the two are not the same
// whatever the others are.
func (b bits) differs(from []byte) bool {
	for i := range b.value {
		if (b.value[i]^from[i])&b.known[i] != 0 {
			return true
		}
	}
	return false
}

// registerBytes is how large a register is, and wordBytes how large a register of 32 bits is.
const (
	registerBytes = 16
	wordBytes     = 4
	// allRegisters are the verdict's register and four more.
	allRegisters = 5 * registerBytes
)

// registers are those that hold values; the verdict's own is not used.
type registers struct{ bits }

func newRegisters() registers { return registers{unknown(allRegisters)} }

// at is where a register begins (nft_parse_register in net/netfilter/nf_tables_api.c).
func at(register uint64, length int) (int, error) {
	offset := 0
	switch {
	case register >= unix.NFT_REG_1 && register <= unix.NFT_REG_4:
		offset = int(register) * registerBytes
	case register >= unix.NFT_REG32_00 && register <= unix.NFT_REG32_15:
		offset = registerBytes + int(register-unix.NFT_REG32_00)*wordBytes
	default:
		return 0, fmt.Errorf("there is no register %d for values", register)
	}
	if length < 1 || offset+length > allRegisters {
		return 0, fmt.Errorf("register %d has no %d octets", register, length)
	}
	return offset, nil
}

// store writes a value into a register. The rest of its last word is zero.
func (r registers) store(register uint64, value bits) error {
	padded := (len(value.value) + wordBytes - 1) / wordBytes * wordBytes
	offset, err := at(register, padded)
	if err != nil {
		return err
	}
	r.set(offset, make([]byte, padded)...)
	r.setBits(offset, value)
	return nil
}

// load reads so many bytes of a register, and of those behind it.
func (r registers) load(register uint64, length int) (bits, error) {
	offset, err := at(register, length)
	if err != nil {
		return bits{}, err
	}
	return r.slice(offset, offset+length), nil
}
