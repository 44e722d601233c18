package kernel

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// attributes encodes attributes for a seed.
func attributes(f testing.TB, fill func(*netlink.AttributeEncoder)) []byte {
	f.Helper()
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	fill(ae)
	data, err := ae.Encode()
	if err != nil {
		f.Fatal(err)
	}
	return data
}

// flowAttributes are those of a flow from src to dst, after destination NAT to
// port of real.
func flowAttributes(f testing.TB, src, real netip.Addr, srcAttr uint16, protocol uint8, port uint16) []byte {
	tuple := func(from netip.Addr, fromPort uint16) func(*netlink.AttributeEncoder) error {
		return func(ae *netlink.AttributeEncoder) error {
			ae.Nested(ctaTupleIP, func(ae *netlink.AttributeEncoder) error {
				ae.Bytes(srcAttr, from.AsSlice())
				return nil
			})
			ae.Nested(ctaTupleProto, func(ae *netlink.AttributeEncoder) error {
				ae.ByteOrder = binary.BigEndian
				ae.Uint8(ctaProtoNum, protocol)
				ae.Uint16(ctaProtoSrcPort, fromPort)
				ae.Uint8(ctaProtoICMPType, 8)
				return nil
			})
			return nil
		}
	}
	return attributes(f, func(ae *netlink.AttributeEncoder) {
		ae.Nested(ctaTupleOrig, tuple(src, 40000))
		ae.Nested(ctaTupleReply, tuple(real, port))
		ae.Uint32(ctaMark, 1<<29)
		ae.Bytes(ctaZone, []byte{0, 1})
	})
}

// FuzzFlow: no entry of connection tracking, whole or broken, makes parseFlow
// panic; what it takes has both addresses and names the entry.
func FuzzFlow(f *testing.F) {
	v4, v6 := netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00::7")
	whole := flowAttributes(f, v4, netip.MustParseAddr("10.244.2.3"), ctaIPv4Src, unix.IPPROTO_TCP, 5432)
	f.Add(byte(unix.AF_INET), whole)
	f.Add(byte(unix.AF_INET6), flowAttributes(f, v6, netip.MustParseAddr("fd00::8"), ctaIPv6Src, unix.IPPROTO_ICMPV6, 0))
	f.Add(byte(unix.AF_INET), whole[:len(whole)-5])
	f.Add(byte(unix.AF_INET), []byte{3, 0, 1, 0})
	f.Add(byte(0), []byte{255, 255, 1, 128, 0})
	f.Fuzz(func(t *testing.T, family byte, data []byte) {
		entry, ok := parseFlow(family, data)
		if !ok {
			return
		}
		if !entry.packet.Src.IsValid() || !entry.packet.Dst.IsValid() || len(entry.tuple) == 0 || entry.family != family {
			t.Errorf("%x gives %+v", data, entry)
		}
	})
}

// TestParseFlow: what FuzzFlow begins with is read as it is meant.
func TestParseFlow(t *testing.T) {
	src, real := netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("10.244.2.3")
	entry, ok := parseFlow(unix.AF_INET, flowAttributes(t, src, real, ctaIPv4Src, unix.IPPROTO_TCP, 5432))
	if !ok || entry.packet.String() != "TCP 10.244.1.7 -> 10.244.2.3:5432" || entry.mark != 1<<29 || !bytes.Equal(entry.zone, []byte{0, 1}) {
		t.Errorf("%+v, %v", entry, ok)
	}
}

// FuzzNotice: no message of nf_tables makes the watch panic. A change of the
// table is noticed whatever else is in the message, and of what can't be read
// it is taken for granted.
func FuzzNotice(f *testing.F) {
	named := func(table, chain string) []byte {
		return attributes(f, func(ae *netlink.AttributeEncoder) {
			ae.String(nftaTable, table)
			ae.String(unix.NFTA_CHAIN_NAME, chain)
		})
	}
	f.Add(uint8(unix.NFT_MSG_NEWCHAIN), byte(unix.NFPROTO_INET), named("podfence", "x"))
	f.Add(uint8(unix.NFT_MSG_DELCHAIN), byte(unix.NFPROTO_INET), named("other", "x"))
	f.Add(uint8(unix.NFT_MSG_NEWTABLE), byte(unix.NFPROTO_BRIDGE), named("podfence", "x")[:3])
	f.Add(uint8(unix.NFT_MSG_NEWRULE), byte(unix.NFPROTO_INET), named("podfence", "x")[:9])
	f.Add(uint8(unix.NFT_MSG_NEWGEN), byte(0), attributes(f, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_GEN_PROC_PID, 7)
		ae.String(unix.NFTA_GEN_PROC_NAME, "nft")
	}))
	f.Add(uint8(255), byte(1), []byte{4, 0, 1, 0, 0, 0, 1, 0})
	w := &Watch{name: "podfence", tables: map[byte]string{unix.NFPROTO_INET: "table inet podfence"}}
	f.Fuzz(func(t *testing.T, kind uint8, family byte, data []byte) {
		for cut := range 5 { // the header may be short, too
			message := netlink.Message{
				Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | uint16(kind))},
				Data:   append(nfgenmsg(family)[:4-cut], data...),
			}
			author(message)
			change := w.change(message)
			if change != "" && cut == 0 && message.Data[0] != unix.NFPROTO_INET {
				t.Errorf("a change of family %d: %q", message.Data[0], change)
			}
			if cut > 0 || family != unix.NFPROTO_INET {
				continue
			}
			if table, err := tableIn(data); err != nil && table == "" && change == "" {
				t.Errorf("%x can't be read (%v), and is not noticed", data, err)
			}
		}
		named := attributes(t, func(ae *netlink.AttributeEncoder) { ae.String(nftaTable, w.name) })
		if change := w.change(netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | uint16(kind))},
			Data:   append(nfgenmsg(unix.NFPROTO_INET), named...),
		}); !strings.Contains(change, "inet podfence") {
			t.Errorf("message %d of the table is not noticed: %q", kind, change)
		}
	})
}

// tableIn is the table that a message names, as far as it can be read.
func tableIn(data []byte) (table string, err error) {
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return "", err
	}
	for ad.Next() {
		if ad.Type() == nftaTable {
			table = ad.String()
		}
	}
	return table, ad.Err()
}

// FuzzLocal: no answer about a route makes parseLocal panic, or gives a range that is none.
func FuzzLocal(f *testing.F) {
	header := make([]byte, rtmsgLength)
	header[0], header[rtmsgDstLength], header[rtmsgType] = unix.AF_INET, 24, unix.RTN_LOCAL
	f.Add(header)
	f.Add(append(header, attributes(f, func(ae *netlink.AttributeEncoder) { ae.Bytes(rtaDst, []byte{192, 0, 2, 0}); ae.Uint32(rtaTable, 255) })...))
	f.Fuzz(func(t *testing.T, data []byte) {
		if prefix, local, ok := parseLocal(data); ok && local && !prefix.IsValid() {
			t.Errorf("%x is read as %s", data, prefix)
		}
	})
}
