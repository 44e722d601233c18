package policy

import (
	"cmp"
	"fmt"
	"net/netip"

	"go4.org/netipx"
	utilnet "k8s.io/utils/net"
)

// ParsePrefix reads a CIDR as the API server has ever accepted one: host bits
// are masked off, leading zeros are decimal (ParseCIDRSloppy), and IPv4-mapped
// IPv6 is IPv4. Newer API servers refuse those forms in new objects
// (StrictIPCIDRValidation), but objects that have them keep them.
func ParsePrefix(text string) (netip.Prefix, error) {
	_, ipnet, err := utilnet.ParseCIDRSloppy(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	addr, ok := netip.AddrFromSlice(ipnet.IP)
	if !ok {
		return netip.Prefix{}, fmt.Errorf("invalid CIDR address: %s", text)
	}
	bits, _ := ipnet.Mask.Size()
	if addr.Is4In6() && bits >= 96 {
		addr, bits = addr.Unmap(), bits-96
	}
	return addr.Prefix(bits)
}

// parseAddr reads an address, leading zeros and IPv4-mapped forms included.
func parseAddr(text string) (netip.Addr, bool) {
	addr, ok := netip.AddrFromSlice(utilnet.ParseIPSloppy(text))
	return addr.Unmap(), ok
}

// AddrRange is the addresses First to Last, both included, of one family.
type AddrRange struct{ First, Last netip.Addr }

// Subtract returns the addresses that are in cidr and in none of the excepts, as disjoint
// ranges in order: at most one range more than there are excepts. (Written as prefixes,
// everything around a single IPv6 address would be 128 of them.) The result may be empty.
func Subtract(cidr netip.Prefix, excepts []netip.Prefix) []AddrRange {
	if len(excepts) == 0 {
		all := netipx.RangeOfPrefix(cidr)
		return []AddrRange{{First: all.From(), Last: all.To()}}
	}
	var b netipx.IPSetBuilder
	b.AddPrefix(cidr)
	for _, except := range excepts {
		b.RemovePrefix(except)
	}
	return rangesOf(&b)
}

// MergeRanges returns the addresses in any of the ranges, as disjoint ranges in
// order: nftables refuses a set whose intervals overlap.
func MergeRanges(ranges []AddrRange) []AddrRange {
	var b netipx.IPSetBuilder
	for _, r := range ranges {
		b.AddRange(netipx.IPRangeFrom(r.First, r.Last))
	}
	return rangesOf(&b)
}

func rangesOf(b *netipx.IPSetBuilder) (ranges []AddrRange) {
	set, err := b.IPSet()
	if err != nil { // the builder saw an invalid prefix, which ParsePrefix never returns
		return nil
	}
	for _, r := range set.Ranges() {
		ranges = append(ranges, AddrRange{First: r.From(), Last: r.To()})
	}
	return ranges
}

// Union returns the addresses in any of the prefixes, as disjoint prefixes in
// order.
func Union(prefixes []netip.Prefix) []netip.Prefix {
	var b netipx.IPSetBuilder
	for _, prefix := range prefixes {
		b.AddPrefix(prefix)
	}
	set, err := b.IPSet()
	if err != nil { // as above
		return nil
	}
	return set.Prefixes()
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
