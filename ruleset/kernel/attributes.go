package kernel

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// attributeReader goes through netlink attributes in place. A netlink.AttributeDecoder does so too, but
// allocates some ten times for a single flow, and there may be a million of them.
type attributeReader struct {
	rest []byte
	kind uint16 // without the flags for nesting and byte order
	// data is valid as long as what the attributes are read from.
	data []byte
	// broken: the rest cannot be read.
	broken bool
}

// next reads the next attribute, and reports whether there is one.
func (a *attributeReader) next() bool {
	if len(a.rest) == 0 || a.broken {
		return false
	}
	if len(a.rest) < unix.SizeofNlAttr {
		a.broken = true
		return false
	}
	length := int(binary.NativeEndian.Uint16(a.rest))
	if length < unix.SizeofNlAttr || length > len(a.rest) {
		a.broken = true
		return false
	}
	a.kind = binary.NativeEndian.Uint16(a.rest[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
	a.data = a.rest[unix.SizeofNlAttr:length]
	a.rest = a.rest[min(len(a.rest), (length+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
	return true
}

// nested are the attributes within this one.
func (a *attributeReader) nested() attributeReader { return attributeReader{rest: a.data} }

// also notes that those within this one cannot be read.
func (a *attributeReader) also(within attributeReader) { a.broken = a.broken || within.broken }

// sized returns the data if it has a length, and zeroes otherwise, which it notes.
func (a *attributeReader) sized(length int) []byte {
	if len(a.data) == length {
		return a.data
	}
	a.broken = true
	return make([]byte, length)
}

func (a *attributeReader) uint8() uint8 { return a.sized(1)[0] }

// uint16, uint32 and uint64 are in network byte order.
func (a *attributeReader) uint16() uint16 { return binary.BigEndian.Uint16(a.sized(2)) }
func (a *attributeReader) uint32() uint32 { return binary.BigEndian.Uint32(a.sized(4)) }
func (a *attributeReader) uint64() uint64 { return binary.BigEndian.Uint64(a.sized(8)) }
