package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset/nft"
)

// connEventData is what the kernel says of a TCP connection that has ended.
func connEventData(t testing.TB) []byte {
	counts := func(packets, bytes uint64) func(*netlink.AttributeEncoder) error {
		return func(ae *netlink.AttributeEncoder) error {
			ae.ByteOrder = binary.BigEndian
			ae.Uint64(ctaCountersPackets, packets)
			ae.Uint64(ctaCountersBytes, bytes)
			return nil
		}
	}
	tuple := func(src, dst string) func(*netlink.AttributeEncoder) error {
		from, to := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
		return func(ae *netlink.AttributeEncoder) error {
			ae.Nested(ctaTupleIP, func(ae *netlink.AttributeEncoder) error {
				ae.Bytes(ctaIPv4Src, from.Addr().AsSlice())
				ae.Bytes(ctaIPv4Dst, to.Addr().AsSlice())
				return nil
			})
			ae.Nested(ctaTupleProto, func(ae *netlink.AttributeEncoder) error {
				ae.ByteOrder = binary.BigEndian
				ae.Uint8(ctaProtoNum, unix.IPPROTO_TCP)
				ae.Uint16(ctaProtoSrcPort, from.Port())
				ae.Uint16(ctaProtoDstPort, to.Port())
				return nil
			})
			return nil
		}
	}
	return append(nfgenmsg(unix.AF_INET), attributes(t, func(ae *netlink.AttributeEncoder) {
		ae.Nested(ctaTupleOrig, tuple("10.244.1.7:40000", "10.96.0.1:443"))
		ae.Nested(ctaTupleReply, tuple("10.244.2.3:8443", "10.244.1.7:40000"))
		ae.Uint32(ctaStatus, statusExpected|8)
		ae.Uint32(ctaMark, 7)
		ae.Nested(ctaCountersOrig, counts(6, 400))
		ae.Nested(ctaCountersReply, counts(5, 1<<40))
		ae.Nested(ctaTimestamp, func(ae *netlink.AttributeEncoder) error {
			ae.ByteOrder = binary.BigEndian
			ae.Uint64(ctaTimestampStart, 1_800_000_000_000_000_001)
			ae.Uint64(ctaTimestampStop, 1_800_000_001_000_000_001)
			return nil
		})
	})...)
}

// TestParseConnEvent: an event is read as it is meant, and without garbage.
func TestParseConnEvent(t *testing.T) {
	data, heard := connEventData(t), time.Unix(1_900_000_000, 0)
	want := nft.ConnEvent{
		Ended: true, Time: time.Unix(1_800_000_001, 1),
		Original: nft.ConnEnds{Src: netip.MustParseAddrPort("10.244.1.7:40000"), Dst: netip.MustParseAddrPort("10.96.0.1:443")},
		Reply:    nft.ConnEnds{Src: netip.MustParseAddrPort("10.244.2.3:8443"), Dst: netip.MustParseAddrPort("10.244.1.7:40000")},
		Protocol: unix.IPPROTO_TCP, Mark: 7, Announced: true,
		Counted: true, OriginalCounts: nft.ConnCounts{Packets: 6, Bytes: 400}, ReplyCounts: nft.ConnCounts{Packets: 5, Bytes: 1 << 40},
	}
	var e nft.ConnEvent
	if !parseConnEvent(ctMessageDelete, data, heard, &e) || e != want {
		t.Errorf("%+v, want %+v", e, want)
	}
	want.Ended, want.Time = false, time.Unix(1_800_000_000, 1)
	if !parseConnEvent(ctMessageNew, data, heard, &e) || e != want {
		t.Errorf("%+v, want %+v", e, want)
	}
	if parseConnEvent(ctMessageGet, data, heard, &e) {
		t.Error("an answer is taken for an event")
	}
	if allocated := testing.AllocsPerRun(100, func() { parseConnEvent(ctMessageDelete, data, heard, &e) }); allocated != 0 {
		t.Errorf("it allocates %v times", allocated)
	}
	for n := range data { // what is cut off within an attribute, or before both tuples, is not read
		cut := attributeReader{rest: data[min(nfgenmsgLength, n):n]}
		for cut.next() {
		}
		if parseConnEvent(ctMessageDelete, data[:n], heard, &e) && (cut.broken || n < nfgenmsgLength || !e.Reply.Dst.IsValid()) {
			t.Errorf("%d bytes of %d are read as %+v", n, len(data), e)
		}
	}
}

// FuzzConnEvent: no event, whole or broken, makes parseConnEvent panic; what it takes has all ends, and has
// the tuple by which it is sampled.
func FuzzConnEvent(f *testing.F) {
	f.Add(uint16(ctMessageDelete), connEventData(f))
	f.Add(uint16(ctMessageNew), connEventData(f)[:60])
	f.Add(uint16(ctMessageNew), append(nfgenmsg(unix.AF_INET6), flowAttributes(f, netip.MustParseAddr("fd00::7"), netip.MustParseAddr("fd00::8"), ctaIPv6Src, unix.IPPROTO_ICMPV6, 0)...))
	f.Add(uint16(0), []byte{})
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		tuple := connTuple(data)
		var e nft.ConnEvent
		if !parseConnEvent(netlink.HeaderType(kind), data, time.Unix(1, 0), &e) {
			return
		}
		if tuple == nil {
			t.Errorf("%x has no tuple", data)
		}
		for _, end := range []netip.AddrPort{e.Original.Src, e.Original.Dst, e.Reply.Src, e.Reply.Dst} {
			if !end.Addr().IsValid() {
				t.Errorf("%x gives %+v", data, e)
			}
		}
		_ = fmt.Sprint(e.First())
	})
}

// BenchmarkConnEvent measures what an event costs once it was received: one that is told, up to that, and
// one that is not in the sample.
func BenchmarkConnEvent(b *testing.B) {
	data := connEventData(b)
	message := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(data))
	binary.NativeEndian.PutUint32(message, uint32(cap(message)))
	binary.NativeEndian.PutUint16(message[4:], ctMessageDelete)
	message = append(message, data...)
	for _, c := range []struct {
		name string
		of   uint32
	}{{"told", 1}, {"not-in-the-sample", 1 << 31}} {
		b.Run(c.name, func(b *testing.B) {
			r, told := connReaderOf(b, func(*nft.ConnEvent) {}), 0
			r.tell = func(*nft.ConnEvent) { told++ }
			r.sample.of = c.of
			b.ReportAllocs()
			for b.Loop() {
				r.datagram(message)
			}
			if (told > 0) != (c.of == 1) {
				b.Fatalf("%d of %d events were told", told, b.N)
			}
		})
	}
}

// connReaderOf is a reader without a socket, which tells all events.
func connReaderOf(t testing.TB, tell func(*nft.ConnEvent)) *connReader {
	t.Helper()
	var own netipx.IPSetBuilder
	for _, addr := range []string{"127.0.0.0/8", "192.0.2.1/32", "10.244.1.1/32", "::1/128", "2001:db8::1/128"} {
		own.AddPrefix(netip.MustParsePrefix(addr))
	}
	set, err := own.IPSet()
	if err != nil {
		t.Fatal(err)
	}
	return &connReader{socket: &datagrams{}, tell: tell, sample: newConnSample(math.MaxInt), own: set, listed: time.Now().Add(time.Hour), lost: &atomic.Uint64{}}
}
