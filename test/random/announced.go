package random

import (
	"fmt"
	"math/rand"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/policy"
)

// PodAddresses is what the agent of one of the nodes announces of some pods, which may be gone or of
// other nodes: true or not, in time or late, once or twice.
func PodAddresses(r *rand.Rand, pods []*corev1.Pod) *v1alpha1.PodAddresses {
	node := pick(r, append([]string{OtherNode, OtherNode, thirdNode}, nodeNames...))
	o := &v1alpha1.PodAddresses{ObjectMeta: metav1.ObjectMeta{Name: node}}
	for _, p := range pods {
		for p.Spec.NodeName == node && maybe(r, 2) || maybe(r, 8) {
			o.Pods = append(o.Pods, podAddress(r, node, p, pods))
			if !maybe(r, 6) {
				break
			}
		}
	}
	return o
}

// announced are what the agents of all nodes announce. Some of the other nodes' pods show no address
// then, as kubelet has not written it yet.
func announced(r *rand.Rand, pods []*corev1.Pod) (all []*v1alpha1.PodAddresses) {
	for _, p := range pods {
		if p.Spec.NodeName != Node && maybe(r, 2) {
			p.Status.PodIP, p.Status.PodIPs = "", nil
		}
	}
	seen := map[string]bool{}
	for range 2 * len(nodeNames) {
		if o := PodAddresses(r, pods); !seen[o.Name] {
			seen[o.Name] = true
			all = append(all, o)
		}
	}
	return all
}

func podAddress(r *rand.Rand, node string, p *corev1.Pod, pods []*corev1.Pod) v1alpha1.PodAddress {
	said := v1alpha1.PodAddress{Namespace: p.Namespace, Name: p.Name, UID: p.UID}
	i := 0
	_, _ = fmt.Sscanf(p.Name, "pod-%d", &i)
	if maybe(r, 8) {
		said.UID = pick(r, append(uids(i), "uid-of-an-earlier-pod"))
	}
	ips := PodAddrs(i, node)
	switch r.Intn(8) {
	case 0: // of its next sandbox
		ips = PodAddrs(i+2*Outsiders, node)
	case 1: // another pod's
		if shown := PodAddrsOf(pick(r, pods)); len(shown) > 0 {
			ips = shown
		}
	case 2: // another node's
		ips = PodAddrs(i, pick(r, append(nodeNames, Node, Node)))
	case 3:
		ips = OutsideRanges(i % Outsiders)
	case 4:
		ips = pick(r, [][]netip.Addr{ownAddrs(Node), ownAddrs(node), {ips[0], OutsideRanges(i)[1]}})
	}
	if maybe(r, 4) {
		ips = ips[r.Intn(len(ips)):][:1]
	}
	said.IPs = spelled(r, ips)
	switch r.Intn(4) {
	case 0, 1:
		said.Supersedes = spelled(r, PodAddrsOf(p))
	case 2:
		said.Supersedes = spelled(r, PodAddrs(i, node))
	}
	if maybe(r, 20) {
		said.IPs = append(said.IPs, pick(r, []string{"", "10.244.2.300", "fe80::1%eth0", "10.244.2.0/24"}))
	}
	return said
}

// spelled are addresses in any order, and sometimes in an odd spelling.
func spelled(r *rand.Rand, ips []netip.Addr) (texts []string) {
	for _, ip := range ips {
		text := ip.String()
		if maybe(r, 12) {
			text = pick(r, spellings(ip))
		}
		texts = append(texts, text)
	}
	if maybe(r, 3) {
		slices.Reverse(texts)
	}
	return texts
}

// announcedAddrs are those of all announcements that can be read.
func announcedAddrs(o *v1alpha1.PodAddresses) (ips []netip.Addr) {
	for _, said := range o.Pods {
		ips = append(ips, Readable(said.IPs)...)
	}
	return ips
}

// Readable are those of the texts that are addresses as they are mostly written.
func Readable(texts []string) (ips []netip.Addr) {
	for _, text := range texts {
		if ip, err := netip.ParseAddr(text); err == nil && ip.Zone() == "" {
			ips = append(ips, ip.Unmap())
		}
	}
	return ips
}

// announcedFeatures says what is special about what was announced.
func announcedFeatures(s policy.Snapshot, f map[string]bool) {
	// each reports whether something is so of an announcement and the pod of its name and UID.
	each := func(is func(node string, said v1alpha1.PodAddress, shown []netip.Addr) bool) bool {
		for _, o := range s.PodAddresses {
			for _, said := range o.Pods {
				for _, p := range s.Pods {
					if p.Namespace == said.Namespace && p.Name == said.Name && p.UID == said.UID && !ended(p) && !p.Spec.HostNetwork &&
						p.Spec.NodeName == o.Name && is(o.Name, said, PodAddrsOf(p)) {
						return true
					}
				}
			}
		}
		return false
	}
	fresh := func(said v1alpha1.PodAddress, shown []netip.Addr) bool {
		return len(shown) == 0 || slices.Equal(sorted(shown), sorted(Readable(said.Supersedes)))
	}
	remote := func(node string) bool { return node != Node }
	f["announced: of a pod that shows no address yet"] = each(func(node string, said v1alpha1.PodAddress, shown []netip.Addr) bool {
		return remote(node) && len(shown) == 0
	})
	f["announced: in place of what the status shows"] = each(func(node string, said v1alpha1.PodAddress, shown []netip.Addr) bool {
		return remote(node) && len(shown) > 0 && fresh(said, shown) && !slices.Equal(sorted(shown), sorted(Readable(said.IPs)))
	})
	f["announced: the status shows something else"] = each(func(node string, said v1alpha1.PodAddress, shown []netip.Addr) bool {
		return remote(node) && !fresh(said, shown) && !slices.Equal(sorted(shown), sorted(Readable(said.IPs)))
	})
	f["announced: an address of this node's ranges"] = each(func(node string, said v1alpha1.PodAddress, shown []netip.Addr) bool {
		return remote(node) && fresh(said, shown) && some(Readable(said.IPs), PodRanges[0].Contains)
	})
	f["announced: an address that another pod has"] = each(func(node string, said v1alpha1.PodAddress, shown []netip.Addr) bool {
		return remote(node) && fresh(said, shown) && some(s.Pods, func(p *corev1.Pod) bool {
			return (p.Namespace != said.Namespace || p.Name != said.Name) && some(PodAddrsOf(p), func(ip netip.Addr) bool { return slices.Contains(Readable(said.IPs), ip) })
		})
	})
	f["announced: by the pod's own node, of this node"] = each(func(node string, said v1alpha1.PodAddress, shown []netip.Addr) bool { return !remote(node) })
	f["announced: by another node than the pod's"] = some(s.PodAddresses, func(o *v1alpha1.PodAddresses) bool {
		return some(o.Pods, func(said v1alpha1.PodAddress) bool {
			return some(s.Pods, func(p *corev1.Pod) bool {
				return p.Namespace == said.Namespace && p.Name == said.Name && p.UID == said.UID && p.Spec.NodeName != o.Name && len(PodAddrsOf(p)) == 0
			})
		})
	})
	f["announced: of an earlier pod of the name"] = some(s.PodAddresses, func(o *v1alpha1.PodAddresses) bool {
		return some(o.Pods, func(said v1alpha1.PodAddress) bool {
			return some(s.Pods, func(p *corev1.Pod) bool {
				return p.Namespace == said.Namespace && p.Name == said.Name && p.UID != said.UID && p.Spec.NodeName == o.Name
			})
		})
	})
	f["announced: by a node that is not known"] = some(s.PodAddresses, func(o *v1alpha1.PodAddresses) bool {
		return !some(s.Nodes, func(n *corev1.Node) bool { return n.Name == o.Name })
	})
	f["announced: one pod twice"] = some(s.PodAddresses, func(o *v1alpha1.PodAddresses) bool {
		for i, a := range o.Pods {
			if some(o.Pods[i+1:], func(b v1alpha1.PodAddress) bool {
				return a.Namespace == b.Namespace && a.Name == b.Name && a.UID == b.UID
			}) {
				return true
			}
		}
		return false
	})
	f["announced: an address outside of the node's ranges"] = each(func(node string, said v1alpha1.PodAddress, shown []netip.Addr) bool {
		return remote(node) && fresh(said, shown) && some(Readable(said.IPs), func(ip netip.Addr) bool {
			return some(s.Nodes, func(n *corev1.Node) bool {
				return n.Name == node && len(RangesOf(n)) > 0 && !some(RangesOf(n), func(cidr netip.Prefix) bool { return cidr.Contains(ip) })
			})
		})
	})
}

func sorted(ips []netip.Addr) []netip.Addr {
	ips = slices.Clone(ips)
	slices.SortFunc(ips, netip.Addr.Compare)
	return slices.Compact(ips)
}
