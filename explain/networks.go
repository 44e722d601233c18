package explain

import (
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// never are addresses that are not those of anybody outside: loopback, multicast, and what is reserved.
var never = []string{"0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "::/128", "::1/128", "ff00::/8"}

// network is a network that policies tell from others, or all addresses of a family.
type network struct {
	prefix netip.Prefix
	// around is the place of the smallest network around it; -1: there is none.
	around int
	// one of its addresses that is nobody's in the cluster, and in no other network within it. All of
	// them are alike to policies.
	one netip.Addr
}

// networks divides the addresses outside of clusters by the networks that policies name. Larger ones come
// before those within them. A network of which no address is outside is left out, and so are those of an
// address family that nobody in the clusters has.
func networks(blocks []netip.Prefix, clusters []*Explainer) (all []network) {
	outside := outsideOf(clusters)
	var prefixes []netip.Prefix
	for _, b := range append([]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}, blocks...) {
		if hasFamily(clusters, b.Addr().Is4()) {
			prefixes = append(prefixes, b.Masked())
		}
	}
	slices.SortFunc(prefixes, comparePrefixes)
	prefixes = slices.Compact(prefixes)
	for i, prefix := range prefixes {
		end := i + 1 // those within it follow it
		for end < len(prefixes) && prefix.Overlaps(prefixes[end]) {
			end++
		}
		one, is := oneIn(prefix, prefixes[i+1:end], outside)
		if !is {
			continue
		}
		around := len(all) - 1
		for around >= 0 && !all[around].prefix.Overlaps(prefix) {
			around = all[around].around
		}
		all = append(all, network{prefix, around, one})
	}
	return all
}

// hasFamily reports whether a pod or a node has an address of a family.
func hasFamily(clusters []*Explainer, four bool) bool {
	for _, x := range clusters {
		for addr := range x.holders {
			if addr.Is4() == four {
				return true
			}
		}
		for _, node := range x.nodes {
			if slices.ContainsFunc(node.Listed, func(addr netip.Addr) bool { return addr.Is4() == four }) {
				return true
			}
		}
	}
	return false
}

// comparePrefixes orders by the first address, of two that begin alike the larger first.
func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// outsideOf are the ranges of addresses that are nobody's in any of the clusters, and that no domain name means.
func outsideOf(clusters []*Explainer) []netipx.IPRange {
	var b netipx.IPSetBuilder
	b.AddPrefix(netip.MustParsePrefix("0.0.0.0/0"))
	b.AddPrefix(netip.MustParsePrefix("::/0"))
	for _, prefix := range never {
		b.RemovePrefix(netip.MustParsePrefix(prefix))
	}
	for _, x := range clusters {
		for addr := range x.holders {
			b.Remove(addr)
		}
		for _, node := range x.nodes {
			for _, addr := range slices.Concat(node.Listed, node.Addrs) {
				b.Remove(addr)
			}
			for _, cidr := range node.PodCIDRs {
				b.RemovePrefix(cidr)
			}
		}
		for _, r := range x.all {
			if r.Addr.IsValid() {
				b.Remove(r.Addr) // domain names mean it
			}
		}
		for _, service := range x.cluster.Services {
			for _, addr := range clusterIPs(service) {
				b.Remove(addr) // it is translated before policies see a packet
			}
		}
	}
	set, err := b.IPSet()
	if err != nil { // only if something that is no address or network was put in, which none of these is
		return nil
	}
	return set.Ranges()
}

// oneIn is the first address of a network that is in one of the ranges and in none of the networks within
// it, which are in order.
func oneIn(prefix netip.Prefix, within []netip.Prefix, ranges []netipx.IPRange) (netip.Addr, bool) {
	at, _ := slices.BinarySearchFunc(ranges, prefix.Addr(), func(r netipx.IPRange, addr netip.Addr) int { return r.To().Compare(addr) })
	addr := prefix.Addr()
	for ; at < len(ranges) && ranges[at].From().Compare(netipx.PrefixLastIP(prefix)) <= 0; at++ {
		if addr.Less(ranges[at].From()) {
			addr = ranges[at].From()
		}
		for len(within) > 0 && !addr.Less(within[0].Addr()) {
			if last := netipx.PrefixLastIP(within[0]); !last.Less(addr) {
				if addr = last.Next(); !addr.IsValid() {
					return netip.Addr{}, false
				}
			}
			within = within[1:]
		}
		if prefix.Contains(addr) && ranges[at].Contains(addr) {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// blocksOf are the networks that the policies of clusters name, each once.
func blocksOf(clusters []*Explainer) (blocks []netip.Prefix) {
	for _, x := range clusters {
		blocks = append(blocks, x.classifier().blocks...)
	}
	slices.SortFunc(blocks, comparePrefixes)
	return slices.Compact(blocks)
}
