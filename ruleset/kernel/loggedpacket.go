package kernel

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset/nft"
)

// logged is a packet as a message of nfnetlink_log tells it.
type logged struct {
	nft.Logged
	// number counts the messages of the group, from 1; 0: it has none. (The kernel begins with 0.)
	number uint32
	// upper is the packet from its upper-layer header on, as far as it was told; of a fragment that is not the first it
	// is empty.
	upper []byte
	// flow is connection tracking's entry, and isTracked says that there is one. info is what the packet
	// is to that (enum ip_conntrack_info in include/uapi/linux/netfilter/nf_conntrack_common.h).
	flow      flow
	isTracked bool
	info      uint32
}

// parseLogged reads a message. ok is false if it is not about an IP packet, or cannot be read.
func parseLogged(data []byte) (l logged, ok bool) {
	if len(data) < nfgenmsgLength {
		return l, false
	}
	if data[0] == unix.NFPROTO_BRIDGE {
		l.Family = nft.Bridge
	}
	var flowAttributes []byte
	a := attributeReader{rest: data[nfgenmsgLength:]}
	for a.next() {
		switch a.kind {
		case logHeader:
			if len(a.data) >= 3 {
				l.Hook, ok = hookNumbered(a.data[2])
			}
		case logTimestamp:
			if len(a.data) == 16 {
				l.Time = time.Unix(int64(binary.BigEndian.Uint64(a.data)), int64(binary.BigEndian.Uint64(a.data[8:]))*1000)
			}
		case logInLink:
			l.InLink = int(a.uint32())
		case logOutLink:
			l.OutLink = int(a.uint32())
		case logPrefix:
			l.Prefix = string(bytes.TrimRight(a.data, "\x00"))
		case logSequence:
			l.number = a.uint32() + 1
		case logPayload:
			l.readPacket(a.data)
		case logConntrack:
			flowAttributes = a.data
		case logConntrackIs:
			l.info = a.uint32()
		}
	}
	if flowAttributes != nil {
		l.flow, l.isTracked = parseFlow(data[0], flowAttributes)
	}
	return l, ok && !a.broken && l.Packet.Dst.IsValid()
}

func hookNumbered(n byte) (nft.HookPoint, bool) {
	for hook, number := range hooks {
		if byte(*number) == n {
			return hook, true
		}
	}
	return 0, false
}

// tracked takes in what connection tracking says of the packet's flow.
func (l *logged) tracked() {
	l.Tracked = true
	switch l.info % ctIsReply {
	case ctIsEstablished:
		l.Packet.State = nft.Established
	case ctIsRelated:
		l.Packet.State = nft.Related
	default:
		l.Packet.State = nft.New
	}
	f := l.flow
	l.Packet.Mark = f.mark
	l.Packet.Flow = nft.Flow{OriginalSrc: f.sender.Addr(), ReplySrc: f.packet.Dst}
	l.Packet.DNAT = f.receiver.Addr() != f.packet.Dst || f.receiver.Port() != f.packet.DstPort
	if l.Packet.DNAT {
		l.Asked = f.receiver
	}
}

const ctIsEstablished, ctIsRelated, ctIsReply = 0, 1, 3

// lookUp asks for the flow of a packet where the kernel does not tell it with the packet. The flow of a
// packet that began it is not to be found: it enters connection tracking only when a packet has left the
// node. Whether such a packet begins a flow or is invalid is then told by its TCP flags (tcp_conntracks in
// net/netfilter/nf_conntrack_proto_tcp.c).
func (r *LogReader) lookUp(l *logged) {
	r.asking.Lock()
	defer r.asking.Unlock()
	for _, reply := range []bool{false, true} {
		f, found := r.flowOf(l, reply)
		if !found {
			continue
		}
		l.flow, l.info = f, ctIsEstablished
		l.tracked()
		l.Tracked = false
		return
	}
	l.Packet.State = nft.New
	const fin, syn, rst, ack = 1, 2, 4, 16
	if flags := l.TCPFlags; l.Packet.Protocol == packet.TCP && (flags&(fin|rst) != 0 || flags&(syn|ack) == syn|ack) {
		l.Packet.State = nft.Invalid
	}
}

// flowOf asks for the flow that a packet belongs to, as one of its first direction or as a reply.
func (r *LogReader) flowOf(l *logged, reply bool) (f flow, found bool) {
	p := l.Packet
	if r.flows == nil || p.Protocol == packet.ICMP || p.Protocol == packet.ICMPv6 {
		return f, false
	}
	family, src, dst := byte(unix.AF_INET), uint16(ctaIPv4Src), uint16(ctaIPv4Dst)
	if p.Src.Is6() {
		family, src, dst = unix.AF_INET6, ctaIPv6Src, ctaIPv6Dst
	}
	direction := uint16(ctaTupleOrig)
	if reply {
		direction = ctaTupleReply
	}
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Nested(direction, func(ae *netlink.AttributeEncoder) error {
		ae.Nested(ctaTupleIP, func(ae *netlink.AttributeEncoder) error {
			ae.Bytes(src, p.Src.AsSlice())
			ae.Bytes(dst, p.Dst.AsSlice())
			return nil
		})
		ae.Nested(ctaTupleProto, func(ae *netlink.AttributeEncoder) error {
			ae.ByteOrder = binary.BigEndian
			ae.Uint8(ctaProtoNum, uint8(p.Protocol))
			ae.Uint16(ctaProtoSrcPort, p.SrcPort)
			ae.Uint16(ctaProtoDstPort, p.DstPort)
			return nil
		})
		return nil
	})
	attributes, err := ae.Encode()
	if err != nil {
		return f, false
	}
	err = r.flows.ask(netlink.Message{
		Header: netlink.Header{Type: ctMessageGet, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(nfgenmsg(family), attributes...),
	}, func(m netlink.Message) error {
		if len(m.Data) >= nfgenmsgLength {
			f, found = parseFlow(m.Data[0], m.Data[nfgenmsgLength:])
		}
		return nil
	})
	return f, found && err == nil
}

// readPacket reads the headers of an IP packet as far as it was told. Without a whole IP header, it has no
// addresses.
func (l *logged) readPacket(data []byte) {
	if len(data) == 0 {
		return
	}
	p := &l.Packet
	var upper []byte
	switch data[0] >> 4 {
	case 4:
		length := int(data[0]&15) * 4
		if length < ipv4Length || len(data) < length {
			return
		}
		p.Src, p.Dst = netip.AddrFrom4([4]byte(data[12:])), netip.AddrFrom4([4]byte(data[16:]))
		p.Protocol = packet.Protocol(data[9])
		p.HopLimit = data[8]
		switch fragment := binary.BigEndian.Uint16(data[6:]); {
		case fragment&0x1fff != 0:
			p.Fragment = nft.Later
		case fragment&0x2000 != 0:
			p.Fragment = nft.First
		}
		upper = data[length:]
	case 6:
		if len(data) < ipv6Length {
			return
		}
		p.Src, p.Dst = netip.AddrFrom16([16]byte(data[8:])), netip.AddrFrom16([16]byte(data[24:]))
		p.HopLimit = data[7]
		p.Protocol, upper = l.extensions(data[6], data[ipv6Length:])
	default:
		return
	}
	if p.Fragment == nft.Later {
		return
	}
	if p.Fragment == nft.First && len(upper) < 8 {
		p.Fragment = nft.Headerless
	}
	l.readUpper(upper)
}

const ipv4Length, ipv6Length = 20, 40

// extensions walks over the extension headers of an IPv6 packet (RFC 8200 section 4), to its upper layer.
func (l *logged) extensions(next byte, data []byte) (packet.Protocol, []byte) {
	p := &l.Packet
	for first := true; ; first = false {
		length := 0
		switch next {
		case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
			if len(data) >= 2 {
				length = (int(data[1]) + 1) * 8
			}
		case unix.IPPROTO_FRAGMENT:
			length = 8
			if len(data) >= 4 {
				switch offset := binary.BigEndian.Uint16(data[2:]); {
				case offset&^7 != 0:
					p.Fragment = nft.Later
				case offset&1 != 0:
					p.Fragment = nft.First
				}
			}
		default:
			return packet.Protocol(next), data
		}
		if first {
			p.HopByHop, p.Extended = next == unix.IPPROTO_HOPOPTS, next != unix.IPPROTO_HOPOPTS
		}
		if length == 0 || len(data) < length {
			return packet.Protocol(next), nil
		}
		next, data = data[0], data[length:]
	}
}

// readUpper reads ports, or what an ICMP message is.
func (l *logged) readUpper(data []byte) {
	p := &l.Packet
	l.upper = data
	switch p.Protocol {
	case packet.ICMP, packet.ICMPv6:
		if len(data) >= 2 {
			p.ICMPType, l.ICMPCode = data[0], data[1]
		}
		return
	case packet.TCP, packet.UDP, packet.SCTP, unix.IPPROTO_DCCP, unix.IPPROTO_UDPLITE:
	default:
		return
	}
	if len(data) < 4 {
		return
	}
	p.SrcPort, p.DstPort = binary.BigEndian.Uint16(data), binary.BigEndian.Uint16(data[2:])
	switch {
	case p.Protocol == packet.TCP && len(data) >= 14:
		l.TCPFlags = data[13]
		p.Midstream = l.TCPFlags&2 == 0
	case p.Protocol == packet.SCTP && len(data) >= 13:
		p.Midstream = data[12] != 1
	}
}
