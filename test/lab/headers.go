package lab

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
)

// Sum fills an IPv4 header's checksum in.
func Sum(header []byte) {
	binary.BigEndian.PutUint16(header[10:], 0)
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum))
}

// Extensions are the IPv6 extension headers, valid but for the first octet, the header
// that follows: a router alert (RFC 2711); a routing header that has nowhere left to go;
// a datagram in one fragment; an authentication header; padding.
var Extensions = map[policy.Protocol][]byte{
	0:  {0, 0, 5, 2, 0, 0, 1, 0},
	43: {0, 0, 253, 0, 0, 0, 0, 0},
	44: {0, 0, 0, 0, 0, 0, 0, 1},
	51: {0, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0},
	60: {0, 0, 1, 4, 0, 0, 0, 0},
}

// Extended puts an extension header between an IPv6 header and what follows.
func Extended(packet []byte, number uint16, extension []byte) []byte {
	b := append(bytes.Clone(packet[:40]), extension...)
	b[40], b[6] = packet[6], byte(number)
	binary.BigEndian.PutUint16(b[4:], uint16(len(packet)-40+len(extension)))
	return append(b, packet[40:]...)
}

// Behind puts destination options before the upper layer of an IPv6 packet, which fill a
// fragment of a size: one that is skipped, with a mark in it (RFC 8200 section 4.2), and padding.
func Behind(packet, mark []byte, size int) []byte {
	options := append([]byte{packet[6], byte(size/8 - 1), 0x1e, byte(len(mark))}, mark...)
	for left := size - len(options); left > 0; left = size - len(options) {
		padding := min(left-2, 255)
		if left-2-padding == 1 {
			padding--
		}
		options = append(append(options, 1, byte(padding)), make([]byte, padding)...)
	}
	b := append(append(bytes.Clone(packet[:40]), options...), packet[40:]...)
	b[6] = unix.IPPROTO_DSTOPTS
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	return b
}
