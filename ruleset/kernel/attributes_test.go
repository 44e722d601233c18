package kernel

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// FuzzAttributes: attributes are read as by the netlink library, and what it cannot read is broken here,
// too. An attribute that is shorter than its own header is broken only here: the kernel makes none.
func FuzzAttributes(f *testing.F) {
	f.Add(flowAttributes(f, netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("10.244.2.3"), ctaIPv4Src, unix.IPPROTO_TCP, 5432))
	f.Add([]byte{5, 0, 1, 128, 7})
	f.Add([]byte{5, 0, 1, 0, 7, 0, 0, 0, 4, 0, 2, 64})
	f.Add([]byte{6, 0, 1, 0, 7})
	f.Add([]byte{4, 0, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		a := attributeReader{rest: data}
		var mine, theirs []netlink.Attribute
		for a.next() {
			mine = append(mine, netlink.Attribute{Type: a.kind, Data: a.data})
		}
		ad, err := netlink.NewAttributeDecoder(data)
		for err == nil && ad.Next() {
			theirs = append(theirs, netlink.Attribute{Type: ad.Type(), Data: ad.Bytes()})
		}
		if err == nil {
			err = ad.Err()
		}
		if err != nil && !a.broken {
			t.Fatalf("%x is taken; the library says %v", data, err)
		}
		if a.broken {
			return
		}
		if len(mine) != len(theirs) {
			t.Fatalf("%x has %v, the library reads %v", data, mine, theirs)
		}
		for i := range mine {
			if mine[i].Type != theirs[i].Type || !bytes.Equal(mine[i].Data, theirs[i].Data) {
				t.Fatalf("%x has %v, the library reads %v", data, mine, theirs)
			}
		}
	})
}

// FuzzMessages: no datagram makes appendMessages panic, and what it takes adds up to the datagram.
func FuzzMessages(f *testing.F) {
	message := func(length uint32, data ...byte) []byte {
		return append(append(binary.NativeEndian.AppendUint32(nil, length), make([]byte, 12)...), data...)
	}
	f.Add(append(message(17, 1, 0, 0, 0), message(16)...))
	f.Add(message(17, 1))
	f.Add(message(15))
	f.Add(message(1<<31 + 16))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, datagram []byte) {
		messages, err := appendMessages(nil, datagram)
		total := 0
		for _, m := range messages {
			if int(m.Header.Length) != len(m.Data)+unix.SizeofNlMsghdr {
				t.Errorf("%x: a message of %d octets has %d of data", datagram, m.Header.Length, len(m.Data))
			}
			total += (int(m.Header.Length) + 3) &^ 3
		}
		if err == nil && total != (len(datagram)+3)&^3 {
			t.Errorf("%x: its messages have %d octets", datagram, total)
		}
	})
}

// TestFlowsTakeNoMemory: a million flows are read without leaving anything to collect.
func TestFlowsTakeNoMemory(t *testing.T) {
	data := flowAttributes(t, netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("10.244.2.3"), ctaIPv4Src, unix.IPPROTO_TCP, 5432)
	if n := testing.AllocsPerRun(100, func() {
		if _, ok := parseFlow(unix.AF_INET, data); !ok {
			t.Error("it cannot be read")
		}
	}); n > 0 {
		t.Errorf("reading a flow allocates %v times", n)
	}
}
