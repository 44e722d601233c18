package lab

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
)

// Wire is how a packet is sent: what its headers say besides what a policy.Packet does,
// and what it is put into or cut up to. The zero value is a plain packet that begins a
// flow.
type Wire struct {
	// SrcPort is the source port, or the identifier of an ICMP message that has one. Zero: one
	// that has not been used with the destination before, or, with ZeroPort, zero itself.
	SrcPort  uint16
	ZeroPort bool
	// Flags are TCP's; zero is SYN. Seq and Ack are its numbers; Seq zero is one of the
	// packet's own.
	Flags    uint8
	Seq, Ack uint32
	// Heartbeat makes SCTP's first chunk a HEARTBEAT, which begins no association, instead of
	// an INIT.
	Heartbeat bool
	// TrafficClass is the octet of that name, in IPv4 the type of service.
	TrafficClass uint8
	// BadChecksum: that of the upper layer is wrong.
	BadChecksum bool
	// Payload is what the upper layer carries, before the lab's tag.
	Payload []byte
	// Options are IPv4's, a multiple of four octets; Extensions the IPv6 extension headers,
	// each as in the Extensions of this package, in order.
	Options    []byte
	Extensions []policy.Protocol
	// Fragments are what the packet is cut into.
	Fragments Fragments
	// Wrap is what the frame has around the packet. A node can send only plain ones.
	Wrap Wrap
}

// Fragments say how a packet is cut up, and what becomes of the fragments.
type Fragments uint8

// The ways. The datagrams of all but the last three are complete.
const (
	Uncut        Fragments = iota
	InOrder                // of 16 octets each
	Tiny                   // of 8, so that the first may lack its upper-layer header
	Reversed               // as InOrder, the last one first
	Overlapping            // of which the second begins in the middle of the first
	FirstAlone             // the others are not sent
	LaterAlone             // the last, without those before
	endFragments           // how many ways there are
)

// AllFragments are all ways of cutting a packet up.
func AllFragments() (all []Fragments) {
	for f := InOrder; f < endFragments; f++ {
		all = append(all, f)
	}
	return all
}

func (f Fragments) String() string {
	return [...]string{"whole", "in fragments", "in tiny fragments", "in fragments, the last one first", "in fragments that overlap", "a first fragment alone", "a later fragment alone"}[f]
}

// TCP's flags (RFC 9293 section 3.1).
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

// Packets are the IP packets that are sent for a packet: one, or its fragments. The tag
// is at the end of the last, or of the one that is alone.
func (w Wire) Packets(p policy.Packet, srcPort uint16, tag []byte) ([][]byte, error) {
	b, err := w.craft(p, srcPort, tag)
	if err != nil {
		return nil, err
	}
	w.upper(p, b[headerOf(b):])
	return w.Fragments.of(w.headers(b), crc32.ChecksumIEEE(tag)), nil
}

// craft makes a plain packet. One that is to be cut up has zeros before the tag, so that the
// last fragment has the tag, also if a router cuts it up anew.
func (w Wire) craft(p policy.Packet, srcPort uint16, tag []byte) ([]byte, error) {
	extended := 0
	for _, number := range w.Extensions {
		extended += len(Extensions[number])
	}
	for zeros := 0; ; zeros++ {
		b, err := Craft(p, srcPort, slices.Concat(w.Payload, make([]byte, zeros), tag))
		if err != nil || w.Fragments == Uncut {
			return b, err
		}
		if length := upperLayer(b) + extended; length%smallFragment == 0 && length >= 3*smallFragment {
			return b, nil
		}
	}
}

// upper changes the upper layer as the wire says.
func (w Wire) upper(p policy.Packet, body []byte) {
	switch p.Protocol {
	case policy.TCP:
		if w.Flags != 0 {
			body[13] = w.Flags
		}
		if w.Seq != 0 {
			binary.BigEndian.PutUint32(body[4:], w.Seq)
		}
		binary.BigEndian.PutUint32(body[8:], w.Ack)
	case policy.SCTP:
		if w.Heartbeat {
			body[12] = 4
			binary.BigEndian.PutUint32(body[4:], 1) // the verification tag, which only INIT has none of
		}
	}
	Checksum(p, body)
	if at, has := checksumAt[p.Protocol]; has && w.BadChecksum {
		body[at] ^= 0x55
	}
}

// checksumAt is where the upper layers' checksums are.
var checksumAt = map[policy.Protocol]int{policy.TCP: 16, policy.UDP: 6, policy.SCTP: 8, policy.ICMP: 2, policy.ICMPv6: 2}

// HasChecksum says whether a checksum of the protocol can be wrong.
func HasChecksum(p policy.Protocol) bool {
	_, has := checksumAt[p]
	return has
}

// headers puts in what is between the IP header and the upper layer.
func (w Wire) headers(b []byte) []byte {
	if b[0]>>4 == 4 {
		b[1] = w.TrafficClass
		b = slices.Concat(b[:20], w.Options, b[20:])
		b[0] = 0x45 + byte(len(w.Options)/4)
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		Sum(b[:20+len(w.Options)])
		return b
	}
	b[0], b[1] = 0x60|w.TrafficClass>>4, w.TrafficClass<<4
	for _, number := range slices.Backward(w.Extensions) {
		b = Extended(b, uint16(number), Extensions[number])
	}
	return b
}

// The sizes of fragments: the larger one has room for a tag.
const (
	tinyFragment  = 8
	smallFragment = 16
)

// of cuts a packet up, of which craft has seen to the length.
func (f Fragments) of(packet []byte, id uint32) [][]byte {
	switch f {
	case InOrder:
		return tagged(packet, smallFragment, id)
	case Tiny:
		return tagged(packet, tinyFragment, id)
	case Reversed:
		fragments := tagged(packet, smallFragment, id)
		slices.Reverse(fragments)
		return fragments
	case Overlapping:
		fragments := tagged(packet, smallFragment, id)
		return slices.Insert(fragments, 1, cut(packet, tinyFragment, tinyFragment+smallFragment, true, id))
	case FirstAlone:
		return [][]byte{cut(packet, 0, upperLayer(packet), true, id)}
	case LaterAlone:
		return [][]byte{cut(packet, tinyFragment, upperLayer(packet), false, id)}
	}
	return [][]byte{packet}
}

// upperLayer is how much of a packet can be cut up.
func upperLayer(packet []byte) int { return len(packet) - headerOf(packet) }

// headerOf is the length of the header that each fragment has.
func headerOf(packet []byte) int {
	if packet[0]>>4 == 6 {
		return 40
	}
	return int(packet[0]&0xf) * 4
}

// tagged cuts a packet up such that the last fragment has the tag whole.
func tagged(packet []byte, size int, id uint32) (fragments [][]byte) {
	end := upperLayer(packet) - smallFragment
	for at := 0; at < end; at += size {
		fragments = append(fragments, cut(packet, at, min(at+size, end), true, id))
	}
	return append(fragments, cut(packet, max(end, 0), upperLayer(packet), false, id))
}

// PerFragment is how many octets of a datagram are in each fragment but the last, where
// links take 1,500.
const PerFragment = 1440

// Cut makes fragments of an IP packet, of a size, a multiple of eight octets, and with an
// identification of their own.
func Cut(packet []byte, size int, id uint32) (fragments [][]byte) {
	end := upperLayer(packet)
	for at := 0; at < end; at += size {
		fragments = append(fragments, cut(packet, at, min(at+size, end), at+size < end, id))
	}
	return fragments
}

// cut is a fragment: what is from one octet behind the IP header to before another.
func cut(packet []byte, from, to int, more bool, id uint32) []byte {
	size, flag := headerOf(packet), uint16(0)
	if more {
		flag = 1
	}
	part := packet[size+from : size+to]
	b := bytes.Clone(packet[:size])
	if packet[0]>>4 == 4 {
		binary.BigEndian.PutUint16(b[2:], uint16(size+len(part)))
		binary.BigEndian.PutUint16(b[4:], uint16(id))
		binary.BigEndian.PutUint16(b[6:], flag<<13|uint16(from/8))
		Sum(b)
		return append(b, part...)
	}
	b[6] = unix.IPPROTO_FRAGMENT
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(part)))
	b = append(b, packet[6], 0)
	b = binary.BigEndian.AppendUint16(b, uint16(from)|flag)
	b = binary.BigEndian.AppendUint32(b, id)
	return append(b, part...)
}

// String is what there is besides a plain packet.
func (w Wire) String() string {
	var text bytes.Buffer
	add := func(is bool, format string, of ...any) {
		if is {
			fmt.Fprintf(&text, ", "+format, of...)
		}
	}
	add(w.SrcPort != 0 || w.ZeroPort, "source port %d", w.SrcPort)
	add(w.Flags != 0, "TCP flags %#x", w.Flags)
	add(w.Heartbeat, "a heartbeat")
	add(w.TrafficClass != 0, "traffic class %#x", w.TrafficClass)
	add(w.BadChecksum, "with a wrong checksum")
	add(len(w.Payload) > 0, "%d octets of payload", len(w.Payload))
	add(len(w.Options) > 0, "IPv4 options %x", w.Options)
	add(len(w.Extensions) > 0, "extension headers %d", w.Extensions)
	add(w.Fragments != Uncut, "%s", w.Fragments)
	add(w.Wrap != Plain, "in %s", w.Wrap)
	return text.String()
}
