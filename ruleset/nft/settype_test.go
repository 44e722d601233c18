package nft

import (
	"bytes"
	"net/netip"
	"testing"
)

// whole has something in each of its parts.
func whole() Element {
	e := Element{Protocol: 6, First: 0x0102, Last: 0x0304, MAC: [6]byte{1, 2, 3, 4, 5, 6}}
	for i := range e.Addr {
		e.Addr[i], e.LastAddr[i], e.Port[i] = byte(0x10+i), byte(0x30+i), byte('a'+i)
	}
	return e
}

// TestDatatypesAreDescribed: the description of each datatype is complete, and what it appends is as
// long as it says.
func TestDatatypesAreDescribed(t *testing.T) {
	names, e := map[string]bool{}, whole()
	for d := Datatype(1); int(d) < len(descriptions); d++ {
		if names[d.String()] || d.String() == "" || d.Width() == 0 {
			t.Errorf("datatype %d is %q, %d bytes", d, d, d.Width())
		}
		names[d.String()] = true
		for _, second := range []bool{false, true} {
			if n := len(descriptions[d].appendTo(nil, &e, second)); n != d.Width() {
				t.Errorf("%s appends %d bytes of %d", d, n, d.Width())
			}
			if descriptions[d].text(e, second) == "" {
				t.Errorf("%s has no text", d)
			}
		}
	}
	if !names["ifname"] {
		t.Error("the last datatype is not seen")
	}
}

// TestSetTypes: the text, the key in the kernel and its length, also of what no table of
// podfence's has.
func TestSetTypes(t *testing.T) {
	addr4 := AddrElement(netip.MustParseAddr("10.0.0.1"))
	pair := addr4
	pair.LastAddr = AddrElement(netip.MustParseAddr("10.0.0.2")).Addr
	endpoint := addr4
	endpoint.Protocol, endpoint.First = 17, 53
	sender, _ := LinkElement(addr4, "pf0")
	sender.MAC = [6]byte{2, 0, 0, 0, 0, 9}
	prefix := PrefixElement(netip.MustParsePrefix("fd00::/64"))
	for _, c := range []struct {
		of         SetType
		e          Element
		name, text string
		key, last  string // last of ranges
	}{
		{Of(IPv4Addr), addr4, "ipv4_addr", "10.0.0.1", "\x0a\x00\x00\x01", ""},
		{Of(IPv4Addr, IPv4Addr), pair, "ipv4_addr . ipv4_addr", "10.0.0.1 . 10.0.0.2", "\x0a\x00\x00\x01\x0a\x00\x00\x02", ""},
		{Of(IPv4Addr, InetProto, InetService), endpoint, "ipv4_addr . inet_proto . inet_service", "10.0.0.1 . udp . 53", "\x0a\x00\x00\x01\x11\x00\x00\x00\x00\x35\x00\x00", ""},
		{Of(IfName, EtherAddr, IPv4Addr), sender, "ifname . ether_addr . ipv4_addr", `"pf0" . 02:00:00:00:00:09 . 10.0.0.1`,
			"pf0\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x09\x00\x00\x0a\x00\x00\x01", ""},
		{Of(EtherAddr), Element{MAC: [6]byte{2, 0, 0, 0, 0, 9}}, "ether_addr", "02:00:00:00:00:09", "\x02\x00\x00\x00\x00\x09", ""},
		{Of(EtherType), Element{First: TypeARP}, "ether_type", "arp", "\x08\x06", ""},
		{Of(EtherType), Element{First: 0x88cc}, "ether_type", "0x88cc", "\x88\xcc", ""},
		{Of(ICMPType), Element{Protocol: 3}, "icmp_type", "destination-unreachable", "\x03", ""},
		{Of(ICMPv6Type), Element{Protocol: 200}, "icmpv6_type", "200", "\xc8", ""},
		{RangesOf(IPv6Addr), prefix, "ipv6_addr", "fd00::/64", "\xfd\x00" + zeros(14), "\xfd\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"},
		{RangesOf(IPv4Addr), PrefixElement(netip.MustParsePrefix("10.0.0.1/32")), "ipv4_addr", "10.0.0.1", "\x0a\x00\x00\x01", "\x0a\x00\x00\x01"},
		{RangesOf(IPv4Addr), pair, "ipv4_addr", "10.0.0.1-10.0.0.2", "\x0a\x00\x00\x01", "\x0a\x00\x00\x02"},
		{RangesOf(InetProto, InetService), PortsElement(6, 80, 90), "inet_proto . inet_service", "tcp . 80-90", "\x06\x00\x00\x00\x00\x50\x00\x00", "\x06\x00\x00\x00\x00\x5a\x00\x00"},
		{RangesOf(InetProto, InetService), PortsElement(132, 80, 80), "inet_proto . inet_service", "sctp . 80", "\x84\x00\x00\x00\x00\x50\x00\x00", "\x84\x00\x00\x00\x00\x50\x00\x00"},
		{RangesOf(InetService), PortsElement(0, 1, 9), "inet_service", "1-9", "\x00\x01", "\x00\x09"},
	} {
		if c.of.String() != c.name || c.of.Text(c.e) != c.text {
			t.Errorf("type %s: %s, want type %s: %s", c.of, c.of.Text(c.e), c.name, c.text)
		}
		key := c.of.AppendKey(nil, &c.e)
		if string(key) != c.key || c.of.KeyLen() != len(c.key) {
			t.Errorf("%s of type %s is %x, %d bytes", c.text, c.of, key, c.of.KeyLen())
		}
		if last := c.of.AppendLast(nil, &c.e); c.of.Interval() && string(last) != c.last {
			t.Errorf("%s of type %s ends with %x", c.text, c.of, last)
		}
	}
	if (SetType{}).Known() || !Of(IfName).Known() {
		t.Error("what the zero SetType is of is no set")
	}
	if again := RangesOf(IPv4Addr); again == Of(IPv4Addr) || again != RangesOf(IPv4Addr) {
		t.Error("types are not compared by what they are")
	}
}

func zeros(n int) string { return string(bytes.Repeat([]byte{0}, n)) }

// BenchmarkAppendKey is how long an element's key takes, without the memory for it.
func BenchmarkAppendKey(b *testing.B) {
	e := whole()
	for _, of := range []SetType{Of(IPv4Addr), Of(IPv6Addr), Of(IPv4Addr, InetProto, InetService), Of(IfName, EtherAddr, IPv6Addr)} {
		b.Run(of.String(), func(b *testing.B) {
			b.ReportAllocs()
			key := make([]byte, 0, of.KeyLen())
			for b.Loop() {
				key = of.AppendKey(key[:0], &e)
			}
		})
	}
}
