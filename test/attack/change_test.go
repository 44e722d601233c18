package attack_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

// headerSize is that of an IP packet as lab.Craft makes it.
func headerSize(packet []byte) int {
	if packet[0]>>4 == 6 {
		return 40
	}
	return 20
}

// ends are the addresses of a packet.
func ends(packet []byte) (src, dst netip.Addr) {
	if packet[0]>>4 == 6 {
		return netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40]))
	}
	return netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20]))
}

// tcpFlags sets the flags of a segment. What is no SYN acknowledges something.
func tcpFlags(flags byte) func([]byte) []byte {
	return func(packet []byte) []byte {
		body := packet[headerSize(packet):]
		body[13] = flags
		if flags&0x10 != 0 {
			binary.BigEndian.PutUint32(body[8:], 1)
		}
		src, dst := ends(packet)
		lab.Checksum(policy.Packet{Src: src, Dst: dst, Protocol: policy.TCP}, body)
		return packet
	}
}

// numbered says that a packet is of another protocol. What is an extension header of IPv6 has
// a valid one before it.
func numbered(protocol byte) func([]byte) []byte {
	return func(packet []byte) []byte {
		if packet[0]>>4 == 6 {
			if header := lab.Extensions[policy.Protocol(protocol)]; header != nil {
				return lab.Extended(packet, uint16(protocol), header)
			}
			packet[6] = protocol
			return packet
		}
		packet[9] = protocol
		lab.Sum(packet[:20])
		return packet
	}
}

// routeOption is an option of IPv4 that leads a packet on: a loose or a strict source route,
// or a record of it (RFC 791 section 3.1).
func routeOption(kind byte, to netip.Addr) func([]byte) []byte {
	return func(packet []byte) []byte {
		next := to.As4()
		b := append(bytes.Clone(packet[:20]), kind, 7, 4, next[0], next[1], next[2], next[3], 1)
		b = append(b, packet[20:]...)
		b[0] = 0x47
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		lab.Sum(b[:28])
		return b
	}
}

// routingHeader is one of IPv6 with one address left (RFC 2460 section 4.4, RFC 6275, RFC 6554,
// RFC 8754).
func routingHeader(kind byte, to netip.Addr) func([]byte) []byte {
	return func(packet []byte) []byte {
		header := append([]byte{0, 2, kind, 1, 0, 0, 0, 0}, to.AsSlice()...)
		return lab.Extended(packet, unix.IPPROTO_ROUTING, header)
	}
}
