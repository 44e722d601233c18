package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"
)

// Ranges returns the address ranges that sets of the table of family inet have in the kernel: those
// that the agent which wrote the table knew. There are none if there is no table.
func (c *Conn) Ranges(sets ...string) (ranges []netip.Prefix, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, &OpError{Op: "list ranges of addresses", Err: ErrClosed}
	}
	for _, set := range sets {
		read, err := c.readRanges(set)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, &OpError{Op: "list set " + set, Err: err}
		}
		ranges = append(ranges, read...)
	}
	return ranges, nil
}

const (
	nftaSetElemListElements = 3 // NFTA_SET_ELEM_LIST_ELEMENTS
	nftaListElem            = 1 // NFTA_LIST_ELEM
	nftaSetElemKey          = 1 // NFTA_SET_ELEM_KEY
	nftaSetElemFlags        = 3 // NFTA_SET_ELEM_FLAGS
	nftaDataValue           = 1 // NFTA_DATA_VALUE
	setElemIntervalEnd      = 1 // NFT_SET_ELEM_INTERVAL_END
)

// bound is an element of an interval set: where a range begins, or, with end, the first address after
// the range.
type bound struct {
	addr netip.Addr
	end  bool
}

// readRanges reads a set of address ranges.
func (c *Conn) readRanges(set string) (ranges []netip.Prefix, err error) {
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, c.name)
	ae.String(unix.NFTA_SET_ELEM_LIST_SET, set)
	attributes, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	answers, err := list(c.socket, netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSETELEM},
		Data:   append(nfgenmsg(unix.NFPROTO_INET), attributes...),
	})
	if err != nil {
		return nil, err
	}
	var bounds []bound
	for _, answer := range answers {
		err := eachAttribute(answer, func(ad *netlink.AttributeDecoder) {
			if ad.Type() == nftaSetElemListElements {
				ad.Nested(func(ad *netlink.AttributeDecoder) error {
					for ad.Next() {
						if ad.Type() == nftaListElem {
							var b bound
							ad.Nested(b.read)
							bounds = append(bounds, b)
						}
					}
					return nil
				})
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return prefixesOf(bounds)
}

func (b *bound) read(ad *netlink.AttributeDecoder) error {
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case nftaSetElemFlags:
			b.end = ad.Uint32()&setElemIntervalEnd != 0
		case nftaSetElemKey:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					if ad.Type() == nftaDataValue {
						b.addr, _ = netip.AddrFromSlice(ad.Bytes())
					}
				}
				return nil
			})
		}
	}
	return nil
}

// prefixesOf are the ranges between bounds, as prefixes. The last range has no end if it
// goes on to the last address.
func prefixesOf(bounds []bound) (prefixes []netip.Prefix, err error) {
	slices.SortFunc(bounds, func(a, b bound) int {
		if c := a.addr.Compare(b.addr); c != 0 {
			return c
		}
		if a.end == b.end {
			return 0
		} else if a.end { // the end of a range comes before the beginning of the next at that address
			return -1
		}
		return 1
	})
	for i, b := range bounds {
		switch {
		case !b.addr.IsValid():
			return nil, fmt.Errorf("an element of the set has no address")
		case b.end:
		case i+1 == len(bounds):
			everything := netip.PrefixFrom(b.addr, 0).Masked()
			prefixes = append(prefixes, netipx.IPRangeFrom(b.addr, netipx.PrefixLastIP(everything)).Prefixes()...)
		default:
			prefixes = append(prefixes, netipx.IPRangeFrom(b.addr, bounds[i+1].addr.Prev()).Prefixes()...)
		}
	}
	return prefixes, nil
}
