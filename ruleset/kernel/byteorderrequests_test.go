package kernel

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset/nft"
)

// heard is what a kernel that says yes to everything has been sent.
type heard []netlink.Message

func (h *heard) line() *line {
	return lineTo(func(messages []netlink.Message) ([]datagram, error) {
		*h = append(*h, messages...)
		return []datagram{says(messages[len(messages)-1], 0)}, nil
	})
}

// TestRequestsByteOrder: the octets of what is asked of connection tracking, the packet log, routes and sockets
// are what the kernel takes them for, in whichever order the machine has the octets of a number. The file is
// the same for all of them.
func TestRequestsByteOrder(t *testing.T) {
	g := NewWithT(t)
	var netfilter, route, diag heard
	j := judging{listing: netfilter.line(), marking: netfilter.line(), route: route.line(), sockets: diag.line()}
	f := &Flows{judging: j, deletions: netfilter.line()}

	src, dst := netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("10.244.2.3")
	entry, ok := parseFlow(unix.AF_INET, flowAttributes(t, src, dst, ctaIPv4Src, unix.IPPROTO_TCP, 5432))
	g.Expect(ok).To(BeTrue())
	r := &revocation{judgement: judgement{judging: &j}, bit: 0x01020304}
	g.Expect(r.mark(entry, true)).To(Succeed())
	g.Expect(r.mark(entry, false)).To(Succeed())
	entry.master = entry.tuple
	_, _, err := j.lookUp(entry)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(f.delete(entry)).To(Succeed())
	for _, tuple := range []uint16{ctaTupleOrig, ctaTupleReply} {
		filter, err := sourceFilter(src, tuple)
		g.Expect(err).NotTo(HaveOccurred())
		_, _, err = j.listing.flowsOf(unix.AF_INET, filter, func(flow) error { return nil })
		g.Expect(err).NotTo(HaveOccurred())
	}

	queues := netfilter.line()
	if err := queues.connect(); err != nil {
		t.Fatal(err)
	}
	queue := &Queue{source: queues.open, number: 28774}
	g.Expect(queue.bind(1024)).To(Succeed())
	g.Expect(queue.Release(0x01020304)).To(Succeed())
	log := &LogReader{logSocket: logSocket{source: &relaySource{relay: &relay{kernel: func(m []netlink.Message) ([]datagram, error) {
		netfilter = append(netfilter, m...)
		return []datagram{says(m[0], 0)}, nil
	}}}, group: 28774}, flows: netfilter.line()}
	g.Expect(log.bind()).To(Succeed())
	l := &logged{Logged: nft.Logged{Packet: nft.TracePacket{SrcPort: 40000}}}
	l.Packet.Src, l.Packet.Dst, l.Packet.Protocol, l.Packet.DstPort = src, dst, packet.UDP, 53
	log.flowOf(l, false)

	_, err = j.localRanges()
	g.Expect(err).NotTo(HaveOccurred())
	reader := &Reader{route: route.line()}
	_, err = reader.LinkTo(dst)
	g.Expect(err).NotTo(HaveOccurred())
	_, err = reader.link(0x0102, "")
	g.Expect(err).NotTo(HaveOccurred())
	_, err = reader.Link("eth0")
	g.Expect(err).NotTo(HaveOccurred())
	j.hasSocket(packet.TCP, netip.AddrPortFrom(src, 40000), netip.AddrPortFrom(dst, 5432))

	var have strings.Builder
	for _, of := range []struct {
		messages map[uint16]wireMessage
		sent     heard
	}{{netfilterMessages, netfilter}, {routeMessages, route}, {diagMessages, diag}} {
		octets, err := sentOf(slices.Clone(of.sent)...)
		g.Expect(err).NotTo(HaveOccurred())
		says, err := neutral(of.messages, octets)
		g.Expect(err).NotTo(HaveOccurred())
		have.WriteString(says)
	}
	const path = "testdata/requests.txt"
	if *Update {
		g.Expect(os.WriteFile(path, []byte(have.String()), 0o644)).To(Succeed())
	}
	want, err := os.ReadFile(path)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(have.String()).To(Equal(string(want)))
}
