package lint

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podfence/podfence/policy"
)

// excepts finds blocks of which the excepts leave nothing, and excepts that take nothing away. It asks
// nothing of the cluster.
func (l *linter) excepts(w *written) {
	for b := range blocksOf(w) {
		cidr, excepts, ok := readBlock(b)
		if !ok {
			continue
		}
		if len(excepts) > 0 && len(policy.Subtract(cidr, excepts)) == 0 {
			l.add(w, EmptyBlock, Warning, b.path+".except", "the excepts are all of %s, so that the block has no address; leave out the peer, or make the excepts narrower", b.cidr)
			continue
		}
		for i, except := range excepts {
			if !except.Overlaps(cidr) {
				l.add(w, ExceptOutside, Warning, fmt.Sprintf("%s.except[%d]", b.path, i), "%s has no address of %s, so that it takes nothing away from it", b.except[i], b.cidr)
			}
		}
	}
}

// blocksOf are the blocks of a policy.
func blocksOf(w *written) func(yield func(block) bool) {
	return func(yield func(block) bool) {
		for _, r := range w.rules {
			for _, p := range r.peers {
				for _, b := range p.blocks {
					if !yield(b) {
						return
					}
				}
			}
		}
	}
}

// readBlock reads a block; false: it has something that is no range of addresses, and means nobody.
func readBlock(b block) (cidr netip.Prefix, excepts []netip.Prefix, ok bool) {
	cidr, err := policy.ParsePrefix(b.cidr)
	if err != nil {
		return cidr, nil, false
	}
	for _, text := range b.except {
		except, err := policy.ParsePrefix(text)
		if err != nil {
			return cidr, nil, false
		}
		excepts = append(excepts, except)
	}
	return cidr, excepts, true
}

// usualServiceRanges are what clusters have for ClusterIPs if nobody says otherwise: of kubeadm, and of
// k3s. A block that is just one of these is about Services, if they have their addresses there.
var usualServiceRanges = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("10.43.0.0/16")}

// clusterAddresses finds blocks of addresses that policies should not name: those of pods, which change,
// and those of Services, which are translated before policies are asked.
//
// Most blocks that have such addresses in them are meant for what is outside: 0.0.0.0/0, and private
// ranges as wide as 10.0.0.0/8. So a block counts only if it can hardly be meant for anything else. Of
// pods' addresses that is one that lies within the Nodes' pod ranges, and has an address that a pod has.
// A single address there that no pod has may be a node's own, such as its bridge's. Of Services' addresses
// it is one that lies within the narrowest range that has all of them, and has at least one; or that is
// exactly what clusters usually have for them, and has them all.
func (l *linter) clusterAddresses(w *written, a *addresses) {
	for b := range blocksOf(w) {
		cidr, excepts, ok := readBlock(b)
		if !ok {
			continue
		}
		ranges := policy.Subtract(cidr, excepts)
		if service, found := a.serviceIn(ranges); found && a.isForServices(cidr) {
			l.add(w, ServiceAddresses, Warning, b.path, "%s has addresses of Services, such as that of %s/%s; they are translated to those of endpoints before policies are asked, so that this means nobody: %s",
				b.cidr, service.namespace, service.name, service.instead())
			continue
		}
		if pod, found := a.podIn(ranges); found && a.isForPods(cidr, pod) {
			severity, also := Warning, ""
			if slices.ContainsFunc(a.podCIDRs, func(r netip.Prefix) bool { return contains(cidr, r) }) {
				severity, also = Info, " (an empty one means all)"
			}
			l.add(w, PodAddresses, severity, b.path, "%s has addresses of pods, such as that of %s, and another pod gets them later; name pods by podSelector and namespaceSelector%s", b.cidr, pod.Key, also)
		}
	}
}

// addresses are those of pods and Services, in order.
type addresses struct {
	pods     []podAddress
	services []serviceAddress
	// podCIDRs are the Nodes' pod ranges, and allPods what they are together.
	podCIDRs, allPods []netip.Prefix
	// serviceRanges are the narrowest ranges that have all addresses of Services, one of a family.
	serviceRanges []netip.Prefix
}

type podAddress struct {
	netip.Addr
	policy.Key
}

type serviceAddress struct {
	netip.Addr
	namespace, name string
	// selector is of the pods behind it, and endpoints are their addresses, if it has none.
	selector  string
	endpoints []string
}

// instead says what to name instead of a Service's address.
func (s serviceAddress) instead() string {
	switch {
	case s.selector != "":
		return fmt.Sprintf("name the pods behind it, with %s of namespace %s", s.selector, s.namespace)
	case len(s.endpoints) > 0:
		return "name what is behind it, " + strings.Join(s.endpoints, ", ")
	}
	return "name what is behind it"
}

// podIn is the first pod that has an address in ranges.
func (a *addresses) podIn(ranges []policy.AddrRange) (podAddress, bool) {
	return firstIn(a.pods, func(p podAddress) netip.Addr { return p.Addr }, ranges)
}

// serviceIn is the first Service that has an address in ranges.
func (a *addresses) serviceIn(ranges []policy.AddrRange) (serviceAddress, bool) {
	return firstIn(a.services, func(s serviceAddress) netip.Addr { return s.Addr }, ranges)
}

// firstIn is the first of a list in the order of addresses that is in ranges.
func firstIn[T any](all []T, addr func(T) netip.Addr, ranges []policy.AddrRange) (first T, found bool) {
	for _, r := range ranges {
		at, _ := slices.BinarySearchFunc(all, r.First, func(one T, first netip.Addr) int { return addr(one).Compare(first) })
		if at < len(all) && addr(all[at]).Compare(r.Last) <= 0 {
			return all[at], true
		}
	}
	return first, false
}

// isForPods reports whether a block that has a pod's address can hardly be meant for anything but pods.
func (a *addresses) isForPods(cidr netip.Prefix, pod podAddress) bool {
	return cidr.IsSingleIP() && cidr.Addr() == pod.Addr || slices.ContainsFunc(a.allPods, func(r netip.Prefix) bool { return contains(r, cidr) })
}

// isForServices reports whether a block that has a Service's address can hardly be meant for anything
// but Services.
func (a *addresses) isForServices(cidr netip.Prefix) bool {
	if slices.ContainsFunc(a.serviceRanges, func(r netip.Prefix) bool { return contains(r, cidr) }) {
		return true
	}
	return slices.Contains(usualServiceRanges, cidr) && slices.ContainsFunc(a.serviceRanges, func(r netip.Prefix) bool { return contains(cidr, r) })
}

// contains reports whether a range has all addresses of another.
func contains(wide, narrow netip.Prefix) bool {
	return wide.Bits() <= narrow.Bits() && wide.Contains(narrow.Addr())
}

// around is the narrowest range that has all of some addresses of one family.
func around(first, last netip.Addr) netip.Prefix {
	for bits := first.BitLen(); bits > 0; bits-- {
		if p := netip.PrefixFrom(first, bits).Masked(); p.Contains(last) {
			return p
		}
	}
	return netip.PrefixFrom(first, 0).Masked()
}
