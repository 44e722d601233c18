package generate

import (
	"net/netip"
	"slices"

	"go4.org/netipx"

	"github.com/podfence/podfence/policy"
)

// group covers addresses by as few networks as can be, of which none has a shorter prefix than that, and none has
// an address that taken reports. Addresses are grouped by the network that they share, no larger than they need. They
// are in order, each once, and of one family.
func group(addrs []netip.Addr, shortest int, taken func(netip.Prefix) bool) (networks []netip.Prefix) {
	for len(addrs) > 0 {
		within := netip.PrefixFrom(addrs[0], shortest).Masked()
		n := slices.IndexFunc(addrs, func(addr netip.Addr) bool { return !within.Contains(addr) })
		if n < 0 {
			n = len(addrs)
		}
		networks, addrs = append(networks, cover(addrs[:n], taken)...), addrs[n:]
	}
	return networks
}

// cover is the smallest network that has all of the addresses, or those of its halves if others are in it.
func cover(addrs []netip.Addr, taken func(netip.Prefix) bool) []netip.Prefix {
	first, last := addrs[0], addrs[len(addrs)-1]
	all := netip.PrefixFrom(first, first.BitLen())
	for !all.Contains(last) {
		all = netip.PrefixFrom(first, all.Bits()-1).Masked()
	}
	if len(addrs) == 1 || !taken(all) {
		return []netip.Prefix{all}
	}
	half := netip.PrefixFrom(first, all.Bits()+1).Masked()
	n := slices.IndexFunc(addrs, func(addr netip.Addr) bool { return !half.Contains(addr) })
	return append(cover(addrs[:n], taken), cover(addrs[n:], taken)...)
}

// inCluster are the addresses that are somebody's in the cluster: those of pods, nodes and Services, and those that
// nodes may give to pods.
func (g *generator) inCluster() *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, pod := range g.cluster.Pods {
		if seen, live := policy.PodOf(pod); live {
			for _, addr := range seen.IPs {
				b.Add(addr)
			}
		}
	}
	for _, node := range g.cluster.Nodes {
		of := policy.NodeOf(node)
		for _, addr := range of.Listed {
			b.Add(addr)
		}
		for _, network := range of.PodCIDRs {
			b.AddPrefix(network)
		}
	}
	for _, service := range g.cluster.Services {
		for _, text := range append(slices.Clone(service.Spec.ClusterIPs), service.Spec.ClusterIP) {
			if addr, err := netip.ParseAddr(text); err == nil {
				b.Add(addr.Unmap())
			}
		}
	}
	set, err := b.IPSet()
	if err != nil { // a prefix is not valid, which NodeOf never returns
		return &netipx.IPSet{}
	}
	return set
}
