package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
)

// Flows is connection tracking in one network namespace. It marks flows that
// policy no longer allows, which the base chains then drop.
//
// Deleting such a flow's entry does not end it: its next packet makes a new
// entry, perhaps from the other side, whose direction may well be allowed
// (nf_conntrack_tcp_loose). A mark stays with the flow as long as it lasts.
//
// The requests are made here rather than with a library's flow update, because
// that writes back timeout and TCP state as they were when read, replaces the
// whole mark, which others use too, and cannot name an ICMP flow.
//
// A Flows is for one goroutine at a time, but for Forget.
type Flows struct {
	conntrack, route *netlink.Conn
	bit              uint32
	// deletions is Forget's connection, which must not wait for a listing of all flows.
	forgetting sync.Mutex
	deletions  *netlink.Conn
}

// OpenFlows connects. The bit is the one of the mark that says that a flow has
// been revoked. It fails with ErrPermission, or with the error of the system
// call that failed; a kernel that cannot list flows is named as that.
func OpenFlows(options Options, bit uint32) (*Flows, error) {
	conntrack, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: options.NetNS})
	if err != nil {
		return nil, &OpError{Op: "connect to connection tracking", Err: err}
	}
	route, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: options.NetNS})
	if err != nil {
		return nil, &OpError{Op: "connect to rtnetlink", Err: errors.Join(err, conntrack.Close())}
	}
	deletions, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: options.NetNS})
	if err != nil {
		return nil, &OpError{Op: "connect to connection tracking", Err: errors.Join(err, conntrack.Close(), route.Close())}
	}
	f := &Flows{conntrack: conntrack, route: route, bit: bit, deletions: deletions}
	// Its counters, one answer a CPU, are the cheapest to ask for.
	_, err = list(conntrack, netlink.Message{Header: netlink.Header{Type: ctMessageGetStats}, Data: nfgenmsg(unix.AF_UNSPEC)})
	if err != nil {
		return nil, &OpError{Op: "connect to connection tracking", Err: errors.Join(noConntrack(err), f.Close())}
	}
	return f, nil
}

// Close closes the connections; the marks stay.
func (f *Flows) Close() error {
	return errors.Join(f.conntrack.Close(), f.route.Close(), f.deletions.Close())
}

// Revoke judges every flow anew, and marks those that are not allowed, or
// takes the mark off those that are again. It returns how many it changed, but for TCP
// connections that have ended, which the kernel remembers for a while. The
// judge says whether the policies let the first packet of a flow pass a hook.
// With an error, some flows are not judged: one that cannot be read or marked does
// not keep the others from it.
//
// A flow is judged by its original source and its real destination, which
// after destination NAT is the source of the replies; one that another has
// announced (FTP's data, of its control connection) by the other's.
//
// Three things it cannot see, and sets right when it is called again: a flow whose
// first packet the rules before a commit have let pass, and that is listed only once
// it has left the node; a flow that ended since it was listed and began anew with the
// same ports, by NAT perhaps to another pod; and a mark that somebody else, who had
// read it before, has written back without the bit.
func (f *Flows) Revoke(judge func(ruleset.HookPoint, policy.Packet) bool) (revoked, restored int, err error) {
	local, err := f.localAddrs()
	if err != nil {
		return 0, 0, &OpError{Op: "list the node's addresses", Err: err}
	}
	flows, unreadable, err := f.list()
	if err != nil {
		return 0, 0, &OpError{Op: "list flows", Err: err}
	}
	inheritPackets(flows)
	var first error
	failed := 0
	for _, flow := range flows {
		hook := ruleset.Forward
		switch {
		case local[flow.packet.Src]:
			hook = ruleset.Output
		case local[flow.packet.Dst]:
			hook = ruleset.Input
		}
		deny := !judge(hook, flow.packet)
		if deny == (flow.mark&f.bit != 0) {
			continue
		}
		err := f.mark(flow, deny)
		_, _, said := refusedBy(err)
		switch {
		case errors.Is(err, unix.ENOENT): // it has ended since
		case err != nil && !said: // the next one would fare no better
			return revoked, restored, &OpError{Op: "mark flow " + flow.packet.String(), Err: err}
		case err != nil:
			if failed++; first == nil {
				first = &OpError{Op: "mark flow " + flow.packet.String(), Err: err}
			}
		case deny && flow.ended: // it is marked, in case, but nothing was cut
		case deny:
			revoked++
		default:
			restored++
		}
	}
	switch {
	case failed > 1:
		first = fmt.Errorf("%w, and %d more", first, failed-1)
	case unreadable > 0 && first == nil:
		first = &OpError{Op: "list flows", Err: fmt.Errorf("%d of %d cannot be read", unreadable, unreadable+len(flows))}
	}
	return revoked, restored, first
}

// flow is an entry of connection tracking.
type flow struct {
	family byte
	packet policy.Packet
	mark   uint32
	// tuple and zone name the entry, as the kernel gave them; master is the tuple of
	// the flow that has announced this one, nil if none has.
	tuple, zone, master []byte
	// ended: the TCP connection is closed.
	ended bool
}

// inheritPackets has flows that others have announced judged by those others: they
// pass as related to them, whatever the rules say of their own ports. One whose
// master has ended is left to be judged by itself. A list is not of one moment: in it,
// two flows may each be the other's master.
func inheritPackets(flows []flow) {
	if !slices.ContainsFunc(flows, func(f flow) bool { return f.master != nil }) {
		return
	}
	byTuple := make(map[string]flow, len(flows))
	for _, f := range flows {
		byTuple[string(f.tuple)] = f
	}
	for i, f := range flows {
		for range maxMasters {
			master, listed := byTuple[string(f.master)]
			if !listed {
				break
			}
			f = master
		}
		flows[i].packet = f.packet
	}
}

// maxMasters is how many flows in a row, each announced by the next, are followed.
const maxMasters = 8

// ctnetlink's numbers (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const (
	ctMessageNew = unix.NFNL_SUBSYS_CTNETLINK << 8
	ctMessageGet = unix.NFNL_SUBSYS_CTNETLINK<<8 + 1
	// ctMessageGetStats asks for the counters of each CPU.
	ctMessageGetStats = unix.NFNL_SUBSYS_CTNETLINK<<8 + 4

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaProtoInfo  = 4
	ctaMark       = 8
	ctaMaster     = 14
	ctaZone       = 18
	ctaMarkMask   = 21

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaProtoInfoTCP      = 1
	ctaProtoInfoTCPState = 1
	// The states of a TCP connection that nothing more comes of (enum tcp_conntrack in
	// include/uapi/linux/netfilter/nf_conntrack_tcp.h).
	tcpLastAck, tcpTimeWait, tcpClose = 6, 7, 8

	ctaIPv4Src = 1
	ctaIPv6Src = 3

	ctaProtoNum        = 1
	ctaProtoSrcPort    = 2
	ctaProtoICMPType   = 5
	ctaProtoICMPv6Type = 8

	// nfgenmsgLength and ifaddrmsgLength are the headers before the attributes.
	nfgenmsgLength  = 4
	ifaddrmsgLength = 8

	ifaAddress = 1
	ifaLocal   = 2
)

// nfgenmsg is the header of a netfilter message for a family.
func nfgenmsg(family byte) []byte { return []byte{family, 0 /* version */, 0, 0 /* resource */} }

// list returns all flows, and how many more there are that it cannot read. It asks for
// both families at once: the kernel goes through all its buckets, of all network
// namespaces, each time.
func (f *Flows) list() (flows []flow, unreadable int, err error) { return listFlows(f.conntrack) }

func listFlows(socket *netlink.Conn) (flows []flow, unreadable int, err error) {
	answers, err := list(socket, netlink.Message{Header: netlink.Header{Type: ctMessageGet}, Data: nfgenmsg(unix.AF_UNSPEC)})
	if err != nil {
		return nil, 0, noConntrack(err)
	}
	flows = make([]flow, 0, len(answers))
	for _, answer := range answers {
		if len(answer.Data) < nfgenmsgLength {
			unreadable++
			continue
		}
		if entry, ok := parseFlow(answer.Data[0], answer.Data[nfgenmsgLength:]); ok {
			flows = append(flows, entry)
		} else {
			unreadable++
		}
	}
	return flows, unreadable, nil
}

// noConntrack says what EINVAL means to say when connection tracking is asked:
// there is no such subsystem of nfnetlink, nor a module that has it
// (nfnetlink_rcv_msg in net/netfilter/nfnetlink.c).
func noConntrack(err error) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("it needs CONFIG_NF_CT_NETLINK: %w", err)
	}
	return err
}

func parseFlow(family byte, data []byte) (f flow, ok bool) {
	f.family = family
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return f, false
	}
	ad.ByteOrder = binary.BigEndian
	var original, reply tuple
	for ad.Next() {
		switch ad.Type() {
		case ctaTupleOrig:
			f.tuple = ad.Bytes()
			ad.Nested(original.parse)
		case ctaTupleReply:
			ad.Nested(reply.parse)
		case ctaProtoInfo:
			ad.Nested(f.parseState)
		case ctaMark:
			f.mark = ad.Uint32()
		case ctaZone:
			f.zone = ad.Bytes()
		case ctaMaster:
			f.master = ad.Bytes()
		}
	}
	f.packet = policy.Packet{
		Src: original.src, Dst: reply.src,
		Protocol: original.protocol, DstPort: reply.srcPort, ICMPType: original.icmpType, HopLimit: 64,
	}
	return f, ad.Err() == nil && f.packet.Src.IsValid() && f.packet.Dst.IsValid()
}

// parseState reads the state of a TCP connection; other protocols have none that says
// whether more is to come.
func (f *flow) parseState(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		if ad.Type() != ctaProtoInfoTCP {
			continue
		}
		ad.Nested(func(ad *netlink.AttributeDecoder) error {
			for ad.Next() {
				if ad.Type() == ctaProtoInfoTCPState {
					state := ad.Uint8()
					f.ended = state == tcpLastAck || state == tcpTimeWait || state == tcpClose
				}
			}
			return nil
		})
	}
	return nil
}

// tuple is one direction of a flow.
type tuple struct {
	src      netip.Addr
	protocol policy.Protocol
	srcPort  uint16
	icmpType uint8
}

func (t *tuple) parse(ad *netlink.AttributeDecoder) error {
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case ctaTupleIP:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					if ad.Type() == ctaIPv4Src || ad.Type() == ctaIPv6Src {
						t.src, _ = netip.AddrFromSlice(ad.Bytes())
					}
				}
				return nil
			})
		case ctaTupleProto:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				ad.ByteOrder = binary.BigEndian
				for ad.Next() {
					switch ad.Type() {
					case ctaProtoNum:
						t.protocol = policy.Protocol(ad.Uint8())
					case ctaProtoSrcPort:
						t.srcPort = ad.Uint16()
					case ctaProtoICMPType, ctaProtoICMPv6Type:
						t.icmpType = ad.Uint8()
					}
				}
				return nil
			})
		}
	}
	return nil
}

// mark sets or clears the bit, and no other (ctnetlink_change_mark).
func (f *Flows) mark(entry flow, set bool) error {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Bytes(netlink.Nested|ctaTupleOrig, entry.tuple)
	if entry.zone != nil {
		ae.Bytes(ctaZone, entry.zone)
	}
	bit := f.bit
	if !set {
		bit = 0
	}
	ae.Uint32(ctaMark, bit)
	ae.Uint32(ctaMarkMask, f.bit)
	attributes, err := ae.Encode()
	if err != nil {
		return err
	}
	_, err = ask(f.conntrack, netlink.Message{
		Header: netlink.Header{Type: ctMessageNew, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(nfgenmsg(entry.family), attributes...),
	})
	return err
}

// localAddrs are the IP addresses of the namespace itself.
func (f *Flows) localAddrs() (map[netip.Addr]bool, error) {
	answers, err := list(f.route, netlink.Message{Header: netlink.Header{Type: unix.RTM_GETADDR}, Data: make([]byte, ifaddrmsgLength)})
	if err != nil {
		return nil, err
	}
	local := map[netip.Addr]bool{}
	for _, answer := range answers {
		if len(answer.Data) > 0 && answer.Data[0] != unix.AF_INET && answer.Data[0] != unix.AF_INET6 {
			continue // asked for all, the kernel tells of MCTP's and Phonet's too
		}
		addr, ok := parseAddress(answer.Data)
		if !ok {
			// Without it, the node's own flows would be taken for others'.
			return nil, errors.New("an answer cannot be read")
		}
		local[addr] = true
	}
	return local, nil
}

// parseAddress reads the IP address of a link; it fails for what cannot be read.
func parseAddress(data []byte) (netip.Addr, bool) {
	if len(data) < ifaddrmsgLength {
		return netip.Addr{}, false
	}
	ad, err := netlink.NewAttributeDecoder(data[ifaddrmsgLength:])
	if err != nil {
		return netip.Addr{}, false
	}
	var address, own netip.Addr
	for ad.Next() {
		switch ad.Type() {
		case ifaAddress: // on a point-to-point link, the other end's
			address, _ = netip.AddrFromSlice(ad.Bytes())
		case ifaLocal:
			own, _ = netip.AddrFromSlice(ad.Bytes())
		}
	}
	if !own.IsValid() {
		own = address
	}
	return own, own.IsValid() && ad.Err() == nil
}
