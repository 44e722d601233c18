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

// Subtract returns what is in cidr and in none of the excepts, as disjoint
// prefixes in order. Nothing may be left.
func Subtract(cidr netip.Prefix, excepts []netip.Prefix) []netip.Prefix {
	var b netipx.IPSetBuilder
	b.AddPrefix(cidr)
	for _, except := range excepts {
		b.RemovePrefix(except)
	}
	return prefixesOf(&b)
}

// Union returns the addresses in any of the prefixes, as disjoint prefixes in
// order: nftables refuses a set whose intervals overlap.
func Union(prefixes []netip.Prefix) []netip.Prefix {
	var b netipx.IPSetBuilder
	for _, prefix := range prefixes {
		b.AddPrefix(prefix)
	}
	return prefixesOf(&b)
}

func prefixesOf(b *netipx.IPSetBuilder) []netip.Prefix {
	set, err := b.IPSet()
	if err != nil { // the builder saw an invalid prefix, which ParsePrefix never returns
		return nil
	}
	return set.Prefixes()
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
