package attack_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/stage"
)

// dice throw a frame.
type dice struct {
	*rand.Rand
	*scene
	from stage.ActorID
	mark []byte
}

// in says yes once in n times.
func (d *dice) in(n int) bool { return d.IntN(n) == 0 }

func one[T any](d *dice, of ...T) T { return of[d.IntN(len(of))] }

// frame is a frame with a mark in it, as a whole and as it is sent: fragments of a datagram
// are as many frames.
func (d *dice) frame() (whole []byte, frames [][]byte) {
	switch d.IntN(20) {
	case 0:
		whole = d.neither()
		return whole, [][]byte{whole}
	case 1, 2:
		whole = d.message()
		return whole, [][]byte{whole}
	}
	six := d.in(2)
	l := letter{from: d.from, src: d.source(six), dst: d.destination(six)}
	packet := d.packet(l)
	head := append(bytes.Clone(d.to(l.dst)), d.by()...)
	wrap := lab.Plain
	if d.in(4) {
		wrap = lab.Wrap(d.IntN(int(lab.HopByHop)))
	}
	whole = wrap.Around(head, packet)
	switch {
	case d.in(12):
		d.garble(whole)
	case d.in(12):
		size := 8 * (1 + d.IntN(8))
		// The first has a mark, and no upper layer's header. Who gets one from elsewhere throws it
		// away (RFC 8200 section 4.5); of pods, podfence does.
		if six && pod(d.from) && d.in(2) {
			packet, size = lab.Behind(packet, d.mark, perFragment), perFragment
		}
		for _, b := range lab.Cut(packet, size, d.Uint32()) {
			frames = append(frames, wrap.Around(head, b))
		}
		if d.in(4) {
			slices.Reverse(frames)
		}
		return whole, frames
	}
	return whole, [][]byte{whole}
}

// garble changes an octet before the mark.
func (d *dice) garble(frame []byte) {
	end := bytes.Index(frame, d.mark)
	if end > 12 {
		frame[12+d.IntN(end-12)] = byte(d.IntN(256))
	}
}

// source is the sender's own address, or anybody's.
func (d *dice) source(six bool) netip.Addr {
	if d.in(2) {
		return d.addr(d.from, six)
	}
	return d.anybody(six)
}

// destination is somebody's address.
func (d *dice) destination(six bool) netip.Addr {
	if d.in(3) {
		return d.anybody(six)
	}
	return d.addr(one(d, d.cast()...), six)
}

func (d *dice) anybody(six bool) netip.Addr {
	id := one(d, d.cast()...)
	switch d.IntN(14) {
	case 0:
		return d.internal(six)
	case 1:
		return loopback[six]
	case 2:
		return unspecified[six]
	case 3:
		return farPod[six]
	case 4:
		return vacant[six]
	case 5:
		return elsewhere[six]
	case 6:
		return service[six]
	case 7, 8:
		if six {
			return one(d, linkLocal(d.Actors[one(d, d.senders()...)].MAC), linkLocal(d.gateway(d.from)), solicited(d.addr(id, true)))
		}
		return one(d, unlisted, loopService)
	case 9:
		if six {
			return one(d, embedded(d.addr(id, false))...)
		}
	case 10, 11:
		if six {
			return one(d, others6...)
		}
		return one(d, others4...)
	}
	return d.addr(id, six)
}

// hardware is somebody's hardware address.
func (d *dice) hardware() net.HardwareAddr {
	switch d.IntN(6) {
	case 0:
		return broadcastMAC
	case 1:
		return net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, byte(d.IntN(16))}
	case 2:
		return net.HardwareAddr{byte(d.IntN(256)), byte(d.IntN(256)), byte(d.IntN(256)), 1, 2, 3}
	case 3:
		return d.gateway(d.from)
	}
	id := one(d, d.senders()...)
	return d.Actors[id].MAC
}

// to is the hardware address that a frame to an address goes to.
func (d *dice) to(dst netip.Addr) net.HardwareAddr {
	switch d.IntN(8) {
	case 0, 1:
		return d.hardware()
	case 2:
		return groupMAC(dst)
	}
	if dst.IsMulticast() && d.in(2) {
		return groupMAC(dst)
	}
	for _, id := range d.senders() { // a neighbour, without the node
		if mac := d.Actors[id].MAC; dst.IsLinkLocalUnicast() && linkLocal(mac) == dst && d.in(2) {
			return mac
		}
	}
	return d.gateway(d.from)
}

// by is the hardware address that a frame comes from.
func (d *dice) by() net.HardwareAddr {
	if d.in(6) {
		return d.hardware()
	}
	return d.Actors[d.from].MAC
}

// neither is a frame of any type.
func (d *dice) neither() []byte {
	kind := uint16(d.IntN(1 << 16))
	if d.in(2) {
		kind = one[uint16](d, 0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x8863, 0x8864, 0x8847, 0x88cc, 0x888e, 0x0842, 0x6558, 40)
	}
	b := append(bytes.Clone(d.hardware()), d.by()...)
	b = binary.BigEndian.AppendUint16(b, kind)
	for range d.IntN(48) {
		b = append(b, byte(d.IntN(256)))
	}
	return append(b, d.mark...)
}

// message is one of ARP, with a mark behind it.
func (d *dice) message() []byte {
	to := one(d, broadcastMAC, d.gateway(d.from), d.hardware())
	b := d.arp(d.from, to, uint16(d.IntN(10)), one(d, d.Actors[d.from].MAC, d.hardware()), d.source(false), d.destination(false), d.mark)
	copy(b[6:], d.by())
	if d.in(4) {
		wrapped := lab.Wrap(1+d.IntN(int(lab.Older))).Around(bytes.Clone(b[:12]), append([]byte{0x40}, b[14:]...))
		// The type behind the tags is ARP's.
		at := bytes.LastIndex(wrapped[:len(wrapped)-len(b)+14], []byte{0x08, 0x00})
		wrapped[at+1] = 0x06
		return append(wrapped[:at+2], b[14:]...)
	}
	return b
}

// packet is an IP packet with a random upper layer.
func (d *dice) packet(l letter) []byte {
	protocol, body := d.upper(l.src, l.dst, true)
	if len(body) == 0 {
		protocol, body = 253, d.mark
	}
	lab.Checksum(policy.Packet{Src: l.src, Dst: l.dst, Protocol: policy.Protocol(protocol)}, body)
	if l.src.Is4() {
		return d.around4(l.src, l.dst, protocol, body)
	}
	return d.around6(l.src, l.dst, protocol, body)
}

func (d *dice) hop() byte { return one(d, 64, 255, 1, 2, 254, byte(d.IntN(256))) }

func (d *dice) around4(src, dst netip.Addr, protocol byte, body []byte) []byte {
	b := make([]byte, 20)
	b[0], b[1], b[8], b[9] = 0x45, byte(d.IntN(256)), d.hop(), protocol
	binary.BigEndian.PutUint16(b[4:], uint16(d.IntN(1<<16)))
	if d.in(12) { // a fragment of something
		binary.BigEndian.PutUint16(b[6:], uint16(d.IntN(2)<<13|d.IntN(40)))
	}
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	if d.in(8) { // source routes, records, router alerts, others
		next := d.destination(false).As4()
		b = append(b, one[byte](d, 131, 137, 7, 68, 148, 130, byte(d.IntN(256))), 7, 4, next[0], next[1], next[2], next[3], one[byte](d, 0, 1))
		b[0] = 0x47
	}
	header := len(b)
	b = append(b, body...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	lab.Sum(b[:header])
	return b
}

func (d *dice) around6(src, dst netip.Addr, protocol byte, body []byte) []byte {
	b := make([]byte, 40)
	b[0], b[6], b[7] = 0x60, protocol, d.hop()
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	b = append(b, body...)
	binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
	if !d.in(4) {
		return b
	}
	for range 1 + d.IntN(3) {
		number := one[uint16](d, 0, 43, 44, 51, 60, 135, 139, 140)
		header := lab.Extensions[policy.Protocol(number)]
		switch {
		case number == 43 && d.in(2):
			header = append([]byte{0, 2, one[byte](d, 0, 2, 3, 4), byte(d.IntN(3)), 0, 0, 0, 0}, d.destination(true).AsSlice()...)
		case number == 44 && d.in(2):
			header = []byte{0, 0, byte(d.IntN(2)), byte(d.IntN(256)), 0, 0, 0, byte(d.IntN(8))}
		case header == nil:
			header = make([]byte, 8)
		}
		b = lab.Extended(b, number, header)
	}
	return b
}

// upper is the upper layer of a packet; nested: what is in it may be a packet as well.
func (d *dice) upper(src, dst netip.Addr, nested bool) (protocol byte, body []byte) {
	six := src.Is6()
	ports := func(size int) []byte {
		b := make([]byte, size)
		binary.BigEndian.PutUint16(b, one[uint16](d, clientPort, serverPort, 53, 67, 68, 546, 547, uint16(d.IntN(1<<16))))
		binary.BigEndian.PutUint16(b[2:], one[uint16](d, clientPort, serverPort, 53, 67, 68, 546, 547, 5353, node.DefaultVXLANPort, 4789, 9479, ownTunnel, farTunnel, uint16(d.IntN(1<<16))))
		return b
	}
	switch d.IntN(9) {
	case 0, 1:
		b := ports(8)
		payload := d.mark
		if nested && d.in(3) {
			payload = d.inside(true)
		}
		binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
		return unix.IPPROTO_UDP, append(b, payload...)
	case 2:
		b := ports(20)
		binary.BigEndian.PutUint32(b[4:], d.Uint32())
		binary.BigEndian.PutUint32(b[8:], d.Uint32())
		b[12], b[13] = 0x50, byte(d.IntN(256))
		binary.BigEndian.PutUint16(b[14:], 64240)
		return unix.IPPROTO_TCP, append(b, d.mark...)
	case 3, 4:
		return d.icmp(six, src, dst, nested)
	case 5:
		b := ports(12)
		binary.BigEndian.PutUint32(b[4:], d.Uint32())
		return unix.IPPROTO_SCTP, append(append(b, byte(d.IntN(16)), byte(d.IntN(256)), 0, 4+stage.MarkSize), d.mark...)
	case 6:
		if nested {
			return one[byte](d, 4, 41, 47, 94, 97, 137), d.inside(false)
		}
	}
	// No checksum, whatever the protocol, is where the mark is.
	return byte(d.IntN(256)), append(append([]byte{0, 0, 0x08, 0}, make([]byte, 16)...), d.mark...)
}

// inside is a packet for who takes it out, of a tunnel as nodes have it or by itself.
func (d *dice) inside(tunnel bool) []byte {
	six := d.in(2)
	src, dst := one(d, farPod[six], d.anybody(six)), d.destination(six)
	protocol, body := d.upper(src, dst, false)
	if len(body) == 0 {
		return d.mark
	}
	lab.Checksum(policy.Packet{Src: src, Dst: dst, Protocol: policy.Protocol(protocol)}, body)
	var packet []byte
	if six {
		packet = d.around6(src, dst, protocol, body)
	} else {
		packet = d.around4(src, dst, protocol, body)
	}
	if tunnel {
		return wrapped(node.VTEPMAC("node-1", false), packet)
	}
	return packet
}

// icmp is a message of any type, valid or not: neighbour discovery and listener discovery, with
// options; errors that quote a packet; others.
func (d *dice) icmp(six bool, src, dst netip.Addr, nested bool) (byte, []byte) {
	if !six {
		b := []byte{one[byte](d, 0, 3, 4, 5, 8, 9, 10, 11, 12, 13, 17, byte(d.IntN(256))), byte(d.IntN(16)), 0, 0, 0, 0, 0, 0}
		if nested && d.in(2) {
			return unix.IPPROTO_ICMP, append(b, d.quote(false)...)
		}
		return unix.IPPROTO_ICMP, append(b, d.mark...)
	}
	kind := one[byte](d, 1, 2, 3, 4, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 143, 151, byte(d.IntN(256)))
	b := []byte{kind, byte(d.IntN(2) * d.IntN(256)), 0, 0, 0, 0, 0, 0}
	if kind < 128 && nested && d.in(2) {
		return unix.IPPROTO_ICMPV6, append(b, d.quote(true)...)
	}
	switch kind {
	case 134:
		b = append(b, make([]byte, 8)...)
	case 135, 136:
		b = append(b, one(d, src, dst, d.anybody(true)).AsSlice()...)
	case 137:
		b = append(append(b, d.anybody(true).AsSlice()...), d.anybody(true).AsSlice()...)
	case 130, 131, 132:
		b = append(b, make([]byte, 16)...)
	}
	if kind >= 133 && kind <= 137 && d.in(2) { // an option: a link-layer address, or a nonce
		return unix.IPPROTO_ICMPV6, append(append(b, one[byte](d, 1, 2, 14), (2+stage.MarkSize)/8), d.mark...)
	}
	return unix.IPPROTO_ICMPV6, append(b, d.mark...)
}

// quote is a packet between two, of a flow that there may be.
func (d *dice) quote(six bool) []byte {
	src, dst := d.addr(one(d, d.cast()...), six), d.addr(one(d, d.cast()...), six)
	b, err := lab.Craft(policy.Packet{Src: src, Dst: dst, Protocol: one[policy.Protocol](d, policy.UDP, policy.TCP), DstPort: one[uint16](d, serverPort, clientPort, ownPort)}, clientPort, d.mark)
	d.Must(err)
	return b
}
