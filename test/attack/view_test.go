package attack_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// view is what a frame says, by its octets alone.
type view struct {
	to, by net.HardwareAddr
	// tags is how many VLAN tags there are, vlan whether one of them names a VLAN.
	tags int
	vlan bool
	// kind is the type behind the tags; below 0x600 it is the length of an 802.3 frame.
	kind uint16
	ip   *packet
	// inError: it has come in an ICMP error of the node's about it.
	inError bool
	arp     *message
}

// packet is an IP packet.
type packet struct {
	src, dst netip.Addr
	hop      uint8
	// protocol is that of the upper layer, behind extension headers.
	protocol uint8
	// hopByHop: a hop-by-hop header comes first.
	hopByHop bool
	// extended: there are other extension headers than that of a whole datagram in one
	// fragment, which is atomic; listening is a hop-by-hop header alone.
	extended, atomic, listening bool
	// sourceRoute: an option of IPv4 says where it is to go on to.
	sourceRoute bool
	// fragment: there is more of the datagram elsewhere.
	fragment bool
	// body is what the upper layer has; nil where it is not to be seen.
	body []byte
}

// message is one of ARP.
type message struct {
	operation      uint16
	mac            net.HardwareAddr
	sender, target netip.Addr
}

// read makes a view of a frame.
func read(frame []byte) (v view) {
	if len(frame) < 14 {
		return view{}
	}
	v = view{to: frame[:6], by: frame[6:12], kind: binary.BigEndian.Uint16(frame[12:])}
	rest := frame[14:]
	for (v.kind == unix.ETH_P_8021Q || v.kind == unix.ETH_P_8021AD) && len(rest) >= 4 {
		v.tags++
		v.vlan = v.vlan || binary.BigEndian.Uint16(rest)&0xfff != 0
		v.kind, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
	}
	switch v.kind {
	case unix.ETH_P_IP:
		v.ip = read4(rest)
	case unix.ETH_P_IPV6:
		v.ip = read6(rest)
	case unix.ETH_P_ARP:
		v.arp = readARP(rest)
	}
	return v
}

func readARP(b []byte) *message {
	if len(b) < 28 {
		return nil
	}
	m := &message{operation: binary.BigEndian.Uint16(b[6:]), mac: b[8:14]}
	m.sender, _ = netip.AddrFromSlice(b[14:18])
	m.target, _ = netip.AddrFromSlice(b[24:28])
	return m
}

func read4(b []byte) *packet {
	if len(b) < 20 || b[0]>>4 != 4 {
		return nil
	}
	header := int(b[0]&0xf) * 4
	if header < 20 || header > len(b) {
		return nil
	}
	offset := binary.BigEndian.Uint16(b[6:])
	p := &packet{hop: b[8], protocol: b[9], fragment: offset&0x3fff != 0, extended: header > 20}
	p.src, _ = netip.AddrFromSlice(b[12:16])
	p.dst, _ = netip.AddrFromSlice(b[16:20])
	p.sourceRoute = header > 20 && (b[20] == 131 || b[20] == 137)
	if offset&0x1fff == 0 {
		p.body = b[header:]
	}
	return p
}

// read6 takes an authentication header for the upper layer: who has no key for it takes
// nothing that is behind.
func read6(b []byte) *packet {
	if len(b) < 40 || b[0]>>4 != 6 {
		return nil
	}
	p := &packet{hop: b[7], protocol: b[6], hopByHop: b[6] == unix.IPPROTO_HOPOPTS}
	p.src, _ = netip.AddrFromSlice(b[8:24])
	p.dst, _ = netip.AddrFromSlice(b[24:40])
	rest, first := b[40:], true
	for ; len(rest) >= 8; first = false {
		length := 8 * (int(rest[1]) + 1)
		switch p.protocol {
		case unix.IPPROTO_HOPOPTS:
			p.listening = first
		case unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
			p.listening = false
		case unix.IPPROTO_FRAGMENT:
			length, p.listening = 8, false
			field := binary.BigEndian.Uint16(rest[2:])
			p.atomic, p.fragment = !p.extended && field&^6 == 0, p.fragment || field&^6 != 0
			if field&^7 != 0 {
				p.protocol = rest[0]
				return p
			}
		default:
			p.body = rest
			return p
		}
		p.extended = p.extended || p.protocol != unix.IPPROTO_FRAGMENT
		if length > len(rest) {
			return p
		}
		p.protocol, rest = rest[0], rest[length:]
	}
	p.body = rest
	return p
}

// icmp is the type of an ICMP message of the packet's family.
func (p *packet) icmp() (kind uint8, is bool) {
	if p == nil || len(p.body) == 0 {
		return 0, false
	}
	return p.body[0], p.src.Is4() && p.protocol == unix.IPPROTO_ICMP || p.src.Is6() && p.protocol == unix.IPPROTO_ICMPV6
}

// message6 says whether the packet is an ICMPv6 message of one of the types.
func (p *packet) message6(kinds ...byte) bool {
	kind, is := p.icmp()
	return is && p.src.Is6() && bytes.IndexByte(kinds, kind) >= 0
}

// quoted is the packet that an ICMP error is about; nil if this is none.
func (p *packet) quoted() *packet {
	kind, is := p.icmp()
	if !is || len(p.body) < 8 {
		return nil
	}
	if p.src.Is4() {
		if bytes.IndexByte([]byte{3, 4, 5, 11, 12}, kind) < 0 {
			return nil
		}
		return orNone(read4(p.body[8:]))
	}
	if kind >= 128 {
		return nil
	}
	return orNone(read6(p.body[8:]))
}

// orNone is a packet, or one that nobody has sent.
func orNone(p *packet) *packet {
	if p == nil {
		return &packet{}
	}
	return p
}

// port is the destination port of UDP, 0 if it is not to be seen.
func (p *packet) port() uint16 {
	if p.protocol != unix.IPPROTO_UDP || len(p.body) < 4 {
		return 0
	}
	return binary.BigEndian.Uint16(p.body[2:])
}
