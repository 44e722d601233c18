package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// tracked is connection tracking, and the node's addresses, as a relay's kernel.
type tracked struct {
	// flows are the sources of UDP flows of IPv4, in order; marks theirs.
	flows []netip.Addr
	marks map[netip.Addr]uint32
	// masters are the flows that have announced others, by those.
	masters map[netip.Addr]netip.Addr
	// addrs are what it tells of the node's routes.
	addrs [][]byte
	// links are what it tells of the addresses of links.
	links [][]byte
	// dump changes the answer to a listing: what it returns comes instead.
	dump func([]datagram) []datagram
	// mark is the answer to the marking of a flow; 0: done.
	mark map[netip.Addr]unix.Errno
	// lost: the marking of flows is not answered.
	lost bool
}

func (k *tracked) open() *Flows {
	k.marks = map[netip.Addr]uint32{}
	lines := func() judging {
		return judging{listing: lineTo(k.conntrack), marking: lineTo(k.conntrack), route: lineTo(k.route), sockets: lineTo(k.diag)}
	}
	return &Flows{bit: 1, judging: lines(), judgingOf: lines(), deletions: lineTo(k.conntrack)}
}

func (k *tracked) route(sent []netlink.Message) ([]datagram, error) {
	switch {
	case sent[0].Data[0] == unix.AF_INET6:
		return multipart(sent[0], nil), nil
	case sent[0].Header.Type == unix.RTM_GETADDR:
		return multipart(sent[0], k.links), nil
	}
	return multipart(sent[0], k.addrs), nil
}

func (k *tracked) diag(sent []netlink.Message) ([]datagram, error) {
	return []datagram{says(sent[0], unix.ENOENT)}, nil
}

func (k *tracked) conntrack(sent []netlink.Message) ([]datagram, error) {
	request := sent[0]
	switch {
	case request.Header.Type == ctMessageNew:
		f, _ := parseFlow(unix.AF_INET, append(request.Data[nfgenmsgLength:], tupleBytes(ctaTupleReply, netip.MustParseAddr("10.0.0.1"))...))
		errno := k.mark[f.packet.Src]
		if errno == 0 {
			k.marks[f.packet.Src] = f.mark
		}
		if k.lost {
			return nil, nil
		}
		return []datagram{says(request, errno)}, nil
	case request.Header.Type == ctMessageGetCounts:
		return []datagram{says(request, 0)}, nil
	case request.Header.Flags&netlink.Dump == 0:
		asked, _ := parseFlow(unix.AF_INET, append(request.Data[nfgenmsgLength:], tupleBytes(ctaTupleReply, netip.MustParseAddr("10.0.0.1"))...))
		if !slices.Contains(k.flows, asked.packet.Src) {
			return []datagram{says(request, unix.ENOENT)}, nil
		}
		found := netlink.Message{Header: request.Header, Data: k.entry(asked.packet.Src)}
		return []datagram{{messages: []netlink.Message{found}}, says(request, 0)}, nil
	}
	var entries [][]byte
	for _, src := range k.flows {
		entries = append(entries, k.entry(src))
	}
	answers := multipart(request, entries)
	if k.dump != nil {
		answers = k.dump(answers)
	}
	return answers, nil
}

// entry is what it tells of the flow of a source.
func (k *tracked) entry(src netip.Addr) []byte {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Uint32(ctaMark, k.marks[src])
	mark, _ := ae.Encode()
	entry := append(nfgenmsg(unix.AF_INET), tupleBytes(ctaTupleOrig, src)...)
	entry = append(entry, tupleBytes(ctaTupleReply, netip.MustParseAddr("10.0.0.1"))...)
	if master, is := k.masters[src]; is {
		entry = append(entry, tupleBytes(ctaMaster, master)...)
	}
	return append(entry, mark...)
}

// tupleBytes is one direction of a UDP flow from an address.
func tupleBytes(kind uint16, src netip.Addr) []byte {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Nested(kind, func(ae *netlink.AttributeEncoder) error {
		ae.Nested(ctaTupleIP, func(ae *netlink.AttributeEncoder) error { ae.Bytes(ctaIPv4Src, src.AsSlice()); return nil })
		ae.Nested(ctaTupleProto, func(ae *netlink.AttributeEncoder) error {
			ae.Uint8(ctaProtoNum, uint8(policy.UDP))
			ae.Uint16(ctaProtoSrcPort, 53)
			return nil
		})
		return nil
	})
	b, _ := ae.Encode()
	return b
}

// multipart are the datagrams of a dump: one an entry, and the end.
func multipart(request netlink.Message, entries [][]byte) (answers []datagram) {
	header := netlink.Header{Flags: netlink.Multi, Sequence: request.Header.Sequence, PID: request.Header.PID}
	for _, entry := range entries {
		answers = append(answers, datagram{messages: []netlink.Message{{Header: header, Data: entry}}})
	}
	header.Type = netlink.Done
	return append(answers, datagram{messages: []netlink.Message{{Header: header, Data: make([]byte, 4)}}})
}

func sources(n int) (all []netip.Addr) {
	for i := range n {
		all = append(all, netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}))
	}
	return all
}

func deny(nft.HookPoint, policy.Packet) bool { return false }

// TestFlowFaults has a listing of flows go wrong, once or always: with an error
// nothing is taken for judged, and the next time all is.
func TestFlowFaults(t *testing.T) {
	replace := func(at int, with ...datagram) func([]datagram) []datagram {
		return func(all []datagram) []datagram {
			return append(append(append([]datagram(nil), all[:at]...), with...), all[at+1:]...)
		}
	}
	interrupted := func(all []datagram) []datagram {
		for i := range all {
			all[i].messages[0].Header.Flags |= netlink.DumpInterrupted
		}
		return all[1:] // what has made room while it was listed
	}
	refused := func(errno unix.Errno) func([]datagram) []datagram {
		return func(all []datagram) []datagram {
			return []datagram{says(all[0].messages[0], errno)}
		}
	}
	faults := map[string]func([]datagram) []datagram{
		"no answer":    func([]datagram) []datagram { return nil },
		"no end":       func(all []datagram) []datagram { return all[:2] },
		"garbage":      replace(1, datagram{err: unix.EINVAL}),
		"overrun":      replace(1, datagram{err: callFails("recvmsg", unix.ENOBUFS)}),
		"overrun late": replace(3, datagram{err: callFails("recvmsg", unix.ENOBUFS)}), // only the end is left
		"interrupted":  interrupted,
		"unreadable":   replace(0, datagram{messages: []netlink.Message{{Header: netlink.Header{Flags: netlink.Multi}}}}),
		"truncated": func(all []datagram) []datagram {
			d := all[0].messages[0]
			d.Data = d.Data[:len(d.Data)-14]
			all[0].messages[0] = d
			return all
		},
		"short": func(all []datagram) []datagram { all[0].messages[0].Data = []byte{1}; return all },
		"error at end": func(all []datagram) []datagram {
			e := all[len(all)-1]
			e.messages[0].Data = []byte{0xf4, 0xff, 0xff, 0xff}
			return all
		},
	}
	for errno := range errnos {
		faults[fmt.Sprint("refused ", errno)] = refused(errno)
		faults[fmt.Sprint("receive ", errno)] = replace(2, datagram{err: callFails("recvmsg", errno)})
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			k := &tracked{flows: sources(4), dump: fault}
			flows := k.open()
			revoked, _, err := flows.Revoke(deny)
			if name == "unreadable" { // it has another number: somebody else's
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(revoked).To(Equal(3))
			} else {
				g.Expect(err).To(HaveOccurred(), "%d revoked", revoked)
			}
			g.Expect(revoked).To(Equal(len(k.marks)), "what it says is done, is")

			// A fault that is over leaves nothing behind.
			k.dump = nil
			again, _, err := flows.Revoke(deny)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(revoked + again).To(Equal(4))
			g.Expect(k.marks).To(HaveLen(4))
		})
	}
}

// localRoute is what the kernel tells of a route.
func localRoute(t *testing.T, kind, table byte, bits byte, dst ...byte) []byte {
	header := make([]byte, rtmsgLength)
	header[0], header[rtmsgDstLength], header[rtmsgTable], header[rtmsgType] = unix.AF_INET, bits, table, kind
	return append(header, attributes(t, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(rtaDst, dst)
		ae.Bytes(rtaTable, binary.NativeEndian.AppendUint32(nil, uint32(table)))
	})...)
}

// TestNodeAddresses: what the node itself sends is judged as that, from whatever it takes
// for its own; with a route that cannot be read, nothing is judged.
func TestNodeAddresses(t *testing.T) {
	const local, unicast = unix.RTN_LOCAL, unix.RTN_UNICAST
	for name, c := range map[string]struct {
		routes  [][]byte
		revoked int // of 4
		fails   bool
	}{
		"none":                 {nil, 4, false},
		"one":                  {[][]byte{localRoute(t, local, unix.RT_TABLE_LOCAL, 32, 10, 0, 1, 0)}, 3, false},
		"AnyIP":                {[][]byte{localRoute(t, local, unix.RT_TABLE_LOCAL, 31, 10, 0, 1, 2)}, 2, false},
		"in the main table":    {[][]byte{localRoute(t, local, unix.RT_TABLE_MAIN, 24, 10, 0, 1, 0)}, 4, false}, // pods' are narrower
		"a proxy's table":      {[][]byte{localRoute(t, local, 100, 0, 0, 0, 0, 0)}, 4, false},
		"not the node's":       {[][]byte{localRoute(t, unicast, unix.RT_TABLE_LOCAL, 24, 10, 0, 1, 0)}, 4, false},
		"others' and one":      {[][]byte{localRoute(t, unix.RTN_BROADCAST, unix.RT_TABLE_LOCAL, 32, 10, 0, 1, 1), localRoute(t, local, unix.RT_TABLE_LOCAL, 32, 10, 0, 1, 0)}, 3, false},
		"half of one":          {[][]byte{localRoute(t, local, unix.RT_TABLE_LOCAL, 32, 10, 0, 1, 1), localRoute(t, local, unix.RT_TABLE_LOCAL, 32, 10, 0)}, 0, true},
		"longer than it is":    {[][]byte{localRoute(t, local, unix.RT_TABLE_LOCAL, 33, 10, 0, 1, 1)}, 0, true},
		"nothing of one":       {[][]byte{{}}, 0, true},
		"less than its header": {[][]byte{localRoute(t, local, unix.RT_TABLE_LOCAL, 32, 10, 0, 1, 1)[:rtmsgLength-1]}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			k := &tracked{flows: sources(4), addrs: c.routes}
			revoked, _, err := k.open().Revoke(func(hook nft.HookPoint, _ policy.Packet) bool { return hook == nft.Output })
			g.Expect(err != nil).To(Equal(c.fails), "%v", err)
			g.Expect(revoked).To(Equal(c.revoked))
			g.Expect(k.marks).To(HaveLen(c.revoked))
		})
	}
}

// TestLinkAddresses: those of links count whatever table has their local routes, as a VRF's.
func TestLinkAddresses(t *testing.T) {
	addr := func(kinds ...uint16) []byte {
		header := make([]byte, unix.SizeofIfAddrmsg)
		header[0] = unix.AF_INET
		return append(header, attributes(t, func(ae *netlink.AttributeEncoder) {
			for i, kind := range kinds {
				ae.Bytes(kind, []byte{10, 0, 1, byte(i)})
			}
		})...)
	}
	for name, c := range map[string]struct {
		links   [][]byte
		revoked int // of 4
		fails   bool
	}{
		"one":                        {[][]byte{addr(unix.IFA_ADDRESS)}, 3, false},
		"one, and its peer's":        {[][]byte{addr(unix.IFA_LOCAL, unix.IFA_ADDRESS)}, 3, false},
		"one, and its peer's before": {[][]byte{addr(unix.IFA_ADDRESS, unix.IFA_LOCAL)}, 3, false},
		"none in it":                 {[][]byte{addr()}, 0, true},
		"less than its header":       {[][]byte{{unix.AF_INET}}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			k := &tracked{flows: sources(4), links: c.links}
			revoked, _, err := k.open().Revoke(func(hook nft.HookPoint, _ policy.Packet) bool { return hook == nft.Output })
			g.Expect(err != nil).To(Equal(c.fails), "%v", err)
			g.Expect(revoked).To(Equal(c.revoked))
		})
	}
}

// TestSocketEnds: an IPv4 connection of a dual-stack listener is told of as an IPv6 socket.
func TestSocketEnds(t *testing.T) {
	own, peer := netip.MustParseAddrPort("203.0.113.9:8080"), netip.MustParseAddrPort("10.0.0.2:40000")
	identity := func(own, peer netip.AddrPort, mapped bool) []byte {
		id := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, own.Port()), peer.Port())
		for _, end := range []netip.AddrPort{own, peer} {
			var octets [16]byte
			if copy(octets[:], end.Addr().AsSlice()); mapped {
				octets = end.Addr().As16()
			}
			id = append(id, octets[:]...)
		}
		return append(id, make([]byte, 12)...)
	}
	g := NewWithT(t)
	g.Expect(sameEnds(unix.AF_INET, identity(own, peer, false), own, peer)).To(BeTrue())
	g.Expect(sameEnds(unix.AF_INET6, identity(own, peer, true), own, peer)).To(BeTrue(), "mapped")
	g.Expect(sameEnds(unix.AF_INET, identity(own, netip.MustParseAddrPort("0.0.0.0:0"), false), own, peer)).To(BeFalse(), "a listener")
	g.Expect(sameEnds(unix.AF_INET, identity(peer, own, false), own, peer)).To(BeFalse(), "the other way")
	six, far := netip.MustParseAddrPort("[fd00::9]:8080"), netip.MustParseAddrPort("[fd00::2]:40000")
	g.Expect(sameEnds(unix.AF_INET6, identity(six, far, false), six, far)).To(BeTrue())
	g.Expect(sameEnds(unix.AF_INET6, identity(six, far, false), own, peer)).To(BeFalse())
}

// TestMasters: a flow is judged by the first in the row of those that announced it, as
// far as they are there; a row without an end is no reason to go round for ever.
func TestMasters(t *testing.T) {
	g := NewWithT(t)
	all := sources(7)
	k := &tracked{flows: all, masters: map[netip.Addr]netip.Addr{
		all[1]: all[0], all[2]: all[1], // 2 by 1 by 0
		all[3]: netip.MustParseAddr("10.9.9.9"), // by one that has ended
		all[4]: all[5], all[5]: all[4], all[6]: all[6],
	}}
	judged := map[netip.Addr]int{}
	done := make(chan error)
	go func() {
		_, _, err := k.open().Revoke(func(_ nft.HookPoint, p policy.Packet) bool { judged[p.Src]++; return true })
		done <- err
	}()
	g.Eventually(done, "1m").Should(Receive(BeNil()))
	g.Expect(judged).To(And(HaveKeyWithValue(all[0], 3), HaveKeyWithValue(all[3], 1), Not(HaveKey(all[1])), Not(HaveKey(all[2]))))
}

// TestFlowInterruptedOnce has a listing interrupted, and then not.
func TestFlowInterruptedOnce(t *testing.T) {
	g := NewWithT(t)
	times := 0
	k := &tracked{flows: sources(3), dump: func(all []datagram) []datagram {
		if times++; times <= 2 {
			all[0].messages[0].Header.Flags |= netlink.DumpInterrupted
			return all
		}
		return all
	}}
	revoked, _, err := k.open().Revoke(deny)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(revoked).To(Equal(3))
}

// TestMarkFaults has the marking of one flow refused: the others are cut all the
// same.
func TestMarkFaults(t *testing.T) {
	for errno := range errnos {
		t.Run(errno.Error(), func(t *testing.T) {
			g := NewWithT(t)
			all := sources(4)
			k := &tracked{flows: all, mark: map[netip.Addr]unix.Errno{all[1]: errno}}
			flows := k.open()
			revoked, _, err := flows.Revoke(deny)
			g.Expect(revoked).To(Equal(3))
			g.Expect(k.marks).To(And(HaveLen(3), Not(HaveKey(all[1]))))
			if errno == unix.ENOENT { // it has ended
				g.Expect(err).NotTo(HaveOccurred())
				return
			}
			g.Expect(err).To(MatchError(errno))
			g.Expect(err.Error()).To(ContainSubstring("10.0.1.1"))
			k.mark = nil
			revoked, _, err = flows.Revoke(deny)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(revoked).To(Equal(1))
		})
	}
}

// TestMarkUnanswered has no marking answered: one wait is enough.
func TestMarkUnanswered(t *testing.T) {
	g := NewWithT(t)
	k := &tracked{flows: sources(4), lost: true}
	flows := k.open()
	_, _, err := flows.Revoke(deny)
	g.Expect(err).To(HaveOccurred())
	g.Expect(k.marks).To(HaveLen(1))
	k.lost = false
	revoked, _, err := flows.Revoke(deny)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(revoked).To(Equal(3))
}
