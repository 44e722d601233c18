package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy/packet"
)

// flow is an entry of connection tracking.
type flow struct {
	family byte
	packet packet.Packet
	mark   uint32
	// tuple and zone name the entry, as the kernel gave them. master is the tuple of the flow
	// that has announced this one; nil if none has.
	tuple, zone, master []byte
	// sender and receiver are the ends of the flow before NAT, as the host that began it sees
	// them.
	sender, receiver netip.AddrPort
	// ended: the TCP connection is closed. state is the one of a TCP connection (enum tcp_conntrack in
	// include/uapi/linux/netfilter/nf_conntrack_tcp.h); 0: it is none.
	ended bool
	state uint8
	// id and status are the kernel's. timeout is in how many seconds it forgets the flow unless a packet comes.
	id      []byte
	status  uint32
	timeout uint32
	// counts are the attributes with what it has carried in each direction; nil: the kernel does not count
	// that.
	counts [2][]byte
}

// name returns the attributes that name the entry with a tuple in this flow's zone.
func (f *flow) name(tuple []byte) ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(netlink.Nested|ctaTupleOrig, tuple)
	if f.zone != nil {
		ae.Bytes(ctaZone, f.zone)
	}
	return ae.Encode()
}

// ctnetlink's numbers (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const (
	ctMessageNew = unix.NFNL_SUBSYS_CTNETLINK << 8
	ctMessageGet = unix.NFNL_SUBSYS_CTNETLINK<<8 + 1
	// ctMessageGetStats asks for the counters of each CPU.
	ctMessageGetStats = unix.NFNL_SUBSYS_CTNETLINK<<8 + 4

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaProtoInfo  = 4
	ctaTimeout    = 7
	ctaMark       = 8
	ctaID         = 12
	ctaMaster     = 14
	ctaZone       = 18
	ctaMarkMask   = 21

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaProtoInfoTCP      = 1
	ctaProtoInfoTCPState = 1
	// The states of a TCP connection from which no more packets are to come (enum tcp_conntrack in
	// include/uapi/linux/netfilter/nf_conntrack_tcp.h).
	tcpLastAck, tcpTimeWait, tcpClose = 6, 7, 8

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum        = 1
	ctaProtoSrcPort    = 2
	ctaProtoDstPort    = 3
	ctaProtoICMPType   = 5
	ctaProtoICMPCode   = 6
	ctaProtoICMPv6Type = 8
	ctaProtoICMPv6Code = 9

	// nfgenmsgLength is the header before the attributes.
	nfgenmsgLength = 4
)

// nfgenmsg is the header of a netfilter message for a family.
func nfgenmsg(family byte) []byte { return []byte{family, 0 /* version */, 0, 0 /* resource */} }

// flows calls do with each flow that the attributes ask for; without attributes, with all flows.
// It returns how many flows there were, and how many more could not be read. It asks for both
// families at once, because the kernel goes through all its buckets, of all network namespaces,
// each time. What a flow refers to is valid only during the call of do.
func (l *line) flows(attributes []byte, do func(flow) error) (listed, unreadable int, err error) {
	return l.flowsOf(unix.AF_UNSPEC, attributes, do)
}

func (l *line) flowsOf(family byte, attributes []byte, do func(flow) error) (listed, unreadable int, err error) {
	request := netlink.Message{Header: netlink.Header{Type: ctMessageGet}, Data: append(nfgenmsg(family), attributes...)}
	err = l.dump(request, func(answer netlink.Message) error {
		if len(answer.Data) < nfgenmsgLength {
			unreadable++
			return nil
		}
		entry, ok := parseFlow(answer.Data[0], answer.Data[nfgenmsgLength:])
		if !ok {
			unreadable++
			return nil
		}
		listed++
		return do(entry)
	})
	return listed, unreadable, noConntrack(err)
}

// noConntrack explains an EINVAL to a request about connection tracking: nfnetlink has no such
// subsystem, and there is no module that has it (nfnetlink_rcv_msg in
// net/netfilter/nfnetlink.c).
func noConntrack(err error) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("it needs CONFIG_NF_CT_NETLINK: %w", err)
	}
	return err
}

// parseFlow reads a flow, which refers to data.
func parseFlow(family byte, data []byte) (f flow, ok bool) {
	f.family = family
	var original, reply tuple
	a := attributeReader{rest: data}
	for a.next() {
		switch a.kind {
		case ctaTupleOrig:
			f.tuple = a.data
			a.also(original.parse(a.nested()))
		case ctaTupleReply:
			a.also(reply.parse(a.nested()))
		case ctaProtoInfo:
			a.also(f.parseState(a.nested()))
		case ctaMark:
			f.mark = a.uint32()
		case ctaZone:
			f.zone = a.data
		case ctaMaster:
			f.master = a.data
		case ctaID:
			f.id = a.data
		case ctaStatus:
			f.status = a.uint32()
		case ctaTimeout:
			f.timeout = a.uint32()
		case ctaCountersOrig:
			f.counts[0] = a.data
		case ctaCountersReply:
			f.counts[1] = a.data
		}
	}
	f.packet = packet.Packet{
		Src: original.src, Dst: reply.src,
		Protocol: original.protocol, DstPort: reply.srcPort, ICMPType: original.icmpType, HopLimit: 64,
	}
	f.sender, f.receiver = netip.AddrPortFrom(original.src, original.srcPort), netip.AddrPortFrom(original.dst, original.dstPort)
	return f, !a.broken && f.packet.Src.IsValid() && f.packet.Dst.IsValid()
}

// parseState reads the state of a TCP connection. Other protocols have no state that says whether
// more packets are to come.
func (f *flow) parseState(a attributeReader) attributeReader {
	for a.next() {
		if a.kind != ctaProtoInfoTCP {
			continue
		}
		tcp := a.nested()
		for tcp.next() {
			if tcp.kind == ctaProtoInfoTCPState {
				f.state = tcp.uint8()
				f.ended = f.state == tcpLastAck || f.state == tcpTimeWait || f.state == tcpClose
			}
		}
		a.also(tcp)
	}
	return a
}

// tuple is one direction of a flow.
type tuple struct {
	src, dst         netip.Addr
	protocol         packet.Protocol
	srcPort, dstPort uint16
	icmpType         uint8
	icmpCode         uint8
}

func (t *tuple) parse(a attributeReader) attributeReader {
	for a.next() {
		within := a.nested()
		switch a.kind {
		case ctaTupleIP:
			for within.next() {
				switch within.kind {
				case ctaIPv4Src, ctaIPv6Src:
					t.src, _ = netip.AddrFromSlice(within.data)
				case ctaIPv4Dst, ctaIPv6Dst:
					t.dst, _ = netip.AddrFromSlice(within.data)
				}
			}
		case ctaTupleProto:
			for within.next() {
				switch within.kind {
				case ctaProtoNum:
					t.protocol = packet.Protocol(within.uint8())
				case ctaProtoSrcPort:
					t.srcPort = within.uint16()
				case ctaProtoDstPort:
					t.dstPort = within.uint16()
				case ctaProtoICMPType, ctaProtoICMPv6Type:
					t.icmpType = within.uint8()
				case ctaProtoICMPCode, ctaProtoICMPv6Code:
					t.icmpCode = within.uint8()
				}
			}
		}
		a.also(within)
	}
	return a
}
