package kernel

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// manyFlows is a kernel that has a number of flows, each from another source. It makes a
// datagram when it is asked for it, in the memory of the last one, as a socket does. It
// notes the highest that the heap has been.
type manyFlows struct {
	count, told int
	request     netlink.Message
	number      uint32
	entry       []byte
	datagram    []netlink.Message
	deadlines   int
	peak        uint64
}

// atOnce is how many flows there are in a datagram.
const atOnce = 100

func newManyFlows(count int) *manyFlows {
	m := &manyFlows{count: count}
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Uint32(ctaMark, 0)
	ae.Bytes(64, make([]byte, 100)) // what else there is of a flow: timeouts, counters
	rest, _ := ae.Encode()
	m.entry = append(nfgenmsg(unix.AF_INET), tupleBytes(ctaTupleOrig, netip.MustParseAddr("10.255.255.255"))...)
	m.entry = append(append(m.entry, tupleBytes(ctaTupleReply, netip.MustParseAddr("10.0.0.1"))...), rest...)
	for range atOnce {
		m.datagram = append(m.datagram, netlink.Message{Data: make([]byte, len(m.entry))})
	}
	return m
}

// sourceAt is where the source's address is in an entry.
func (m *manyFlows) sourceAt() int {
	for at := range m.entry {
		if string(m.entry[at:at+4]) == "\x0a\xff\xff\xff" {
			return at
		}
	}
	panic("no address in the entry")
}

func (m *manyFlows) Send(request netlink.Message) (netlink.Message, error) {
	m.number++
	request.Header.Sequence = m.number
	m.request, m.told = request, 0
	return request, nil
}

func (m *manyFlows) Receive() ([]netlink.Message, error) {
	header := netlink.Header{Sequence: m.number, Flags: netlink.Multi}
	if m.told%(100*atOnce) == 0 {
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		m.peak = max(m.peak, stats.HeapAlloc)
	}
	if m.request.Header.Type != ctMessageGet {
		header.Type = netlink.Error
		return []netlink.Message{{Header: header, Data: make([]byte, 20)}}, nil
	}
	if m.told == m.count {
		header.Type = netlink.Done
		return []netlink.Message{{Header: header, Data: make([]byte, 4)}}, nil
	}
	at := m.sourceAt()
	for i := range m.datagram {
		m.datagram[i].Header = header
		copy(m.datagram[i].Data, m.entry)
		binary.BigEndian.PutUint32(m.datagram[i].Data[at:], 0x0a000000|uint32(m.told+i))
	}
	m.told += atOnce
	return m.datagram, nil
}

func (m *manyFlows) SetReadDeadline(time.Time) error { m.deadlines++; return nil }
func (m *manyFlows) Close() error                    { return nil }

// TestMillionFlows: to judge a million flows takes less than 50 MB of memory, and the list of
// them may take any time, as long as each part of it comes.
func TestMillionFlows(t *testing.T) {
	g := NewWithT(t)
	const count, every = 1_000_000, 1000
	listing, marking := newManyFlows(count), newManyFlows(0)
	as := func(s source) *line { return &line{dial: func() (source, error) { return s, nil }} }
	k := &tracked{}
	f := &Flows{bit: 1, deletions: as(listing), judging: judging{
		listing: as(listing), marking: as(marking), route: lineTo(k.route), sockets: lineTo(k.diag),
	}}
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	judged := 0
	revoked, _, err := f.Revoke(func(_ nft.HookPoint, p policy.Packet) bool {
		judged++
		return binary.BigEndian.Uint32(p.Src.AsSlice())%every != 0
	})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(judged).To(Equal(count))
	g.Expect(revoked).To(Equal(count / every))
	g.Expect(listing.deadlines).To(Equal(count/atOnce + 1))
	took := max(listing.peak, marking.peak) - min(before.HeapAlloc, listing.peak)
	t.Logf("%d flows, %d of them revoked: the heap grew by %.1f MB at most", count, revoked, float64(took)/1e6)
	g.Expect(took).To(BeNumerically("<", 50_000_000))

	// To forget addresses among them takes no more.
	listing.peak = 0
	var gone []netip.Addr
	for i := range 100 {
		gone = append(gone, netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}))
	}
	g.Expect(f.Forget(gone)).To(Succeed())
	g.Expect(listing.peak).To(BeNumerically("<", before.HeapAlloc+50_000_000))
}

// hesitant is a socket that has nothing to say, once.
type hesitant struct {
	source
	late, closed int
}

func (h *hesitant) Receive() ([]netlink.Message, error) {
	if h.late > 0 {
		h.late--
		return nil, os.ErrDeadlineExceeded
	}
	return h.source.Receive()
}

func (h *hesitant) Close() error { h.closed++; return h.source.Close() }

// TestRedial: after an answer that did not come, the next request has a connection of its
// own; after a refusal, which is an answer, it has not.
func TestRedial(t *testing.T) {
	g := NewWithT(t)
	k := &tracked{flows: sources(4)}
	f := k.open()
	var dialled []*hesitant
	fails := error(nil)
	dial := f.listing.dial
	f.listing.dial = func() (source, error) {
		if fails != nil {
			return nil, fails
		}
		s, err := dial()
		h := &hesitant{source: s}
		if len(dialled) == 0 {
			h.late = 1
		}
		dialled = append(dialled, h)
		return h, err
	}
	_, _, err := f.Revoke(deny)
	g.Expect(err).To(MatchError(os.ErrDeadlineExceeded))
	g.Expect(dialled[0].closed).To(Equal(1))
	fails = errors.New("too many open files")
	_, _, err = f.Revoke(deny)
	g.Expect(err).To(MatchError(fails))
	fails = nil
	revoked, _, err := f.Revoke(deny)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(revoked).To(Equal(4))
	k.dump = func(all []datagram) []datagram { return []datagram{says(all[0].messages[0], unix.EPERM)} }
	_, _, err = f.Revoke(deny)
	g.Expect(err).To(MatchError(unix.EPERM))
	k.dump = nil
	_, _, err = f.Revoke(deny)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(dialled).To(HaveLen(2))
}
