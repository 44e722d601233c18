package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/policy"
)

// Of files, pods may have placeholders as addresses. Selectors mean such pods as they will mean the real
// ones, but whether a network holds the real address nobody knows yet.

// sixth is where pods that stand in get IPv6 addresses from, of which no policy has a reason to name any
// (RFC 3849).
var sixth = netip.MustParseAddr("2001:db8:ffff:1::")

// withFamiliesOf is an Explainer of the same cluster in which pods that stand in have IPv6 addresses if those
// of another cluster have some. Files give pods IPv6 addresses only where something in them has to do with
// IPv6, and IPv4 addresses always.
func (x *Explainer) withFamiliesOf(other *Explainer) *Explainer {
	six := func(pod *corev1.Pod) bool {
		return slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool { return strings.Contains(ip.IP, ":") })
	}
	lacks := func(pod *corev1.Pod) bool { return standsIn(pod) && len(pod.Status.PodIPs) > 0 && !six(pod) }
	if !slices.ContainsFunc(x.cluster.Pods, lacks) ||
		!slices.ContainsFunc(other.cluster.Pods, func(pod *corev1.Pod) bool { return standsIn(pod) && six(pod) }) {
		return x
	}
	c, next := *x.cluster, sixth
	c.Pods = slices.Clone(c.Pods)
	for i, pod := range c.Pods {
		if lacks(pod) {
			next = next.Next()
			c.Pods[i] = pod.DeepCopy()
			c.Pods[i].Status.PodIPs = append(c.Pods[i].Status.PodIPs, corev1.PodIP{IP: next.String()})
		}
	}
	return New(&c, x.options)
}

// standsIn reports whether a pod stands for pods that are not there, so that its address is a placeholder.
func standsIn(pod *corev1.Pod) bool { return pod.Annotations[v1alpha1.StandInAnnotation] == "true" }

// weigh is what becomes of a packet of which Judge has said v, once placeholders for addresses are taken for
// what they are, and by which rules either end does not know. The packet is as each end sees it.
func (x *Explainer) weigh(v policy.Verdict, egress, ingress packet) (out portVerdict, doubts []Note) {
	out = portVerdict{egress: word(v.Egress.Allowed), ingress: word(v.Ingress.Allowed), judged: v}
	if r, is := x.uncertain(v.Egress, egress); is {
		out.egress, doubts = Unknown, append(doubts, placeholderNote(r, egress.peerEnd))
	}
	if r, is := x.uncertain(v.Ingress, ingress); is {
		out.ingress, doubts = Unknown, append(doubts, placeholderNote(r, ingress.peerEnd))
	}
	out.both = both(out.egress, out.ingress) // what one end denies for certain, the other cannot let pass
	return out, doubts
}

// uncertain is the rule by which a side could decide otherwise once the peer has its real address; false:
// there is none. j is what is decided with the placeholder.
func (x *Explainer) uncertain(j policy.Judgement, p packet) (r rule, is bool) {
	if !p.peerEnd.StandIn || !j.Fenced() {
		return rule{}, false
	}
	bySelector := false // a rule of a NetworkPolicy allows it, whatever the address is
	for _, ref := range j.By {
		bySelector = bySelector || ref.Policy.Namespace != "" && !x.byAddress(ref, p.peerAddr)
	}
	one := len(p.subject.Pods) == 1 // of several pods, each has policies that decide
	for _, ref := range x.asked(j) {
		if ref.Kind == "NetworkPolicy" && bySelector || one && ref.Tier == string(clusterv1beta1.BaselineTier) && len(j.Isolating) > 0 {
			continue
		}
		for _, r := range x.rulesOf(policy.Key{Namespace: ref.Namespace, Name: ref.Name}, p.d) {
			if x.dividesPods(r.peers, p.peerAddr) && (len(r.ports) == 0 || len(missedPorts(r, p)) == 0) {
				return r, true
			}
			// What comes behind the rule of a ClusterNetworkPolicy that decides is not asked.
			if one && ref.Kind != "NetworkPolicy" && slices.ContainsFunc(slices.Concat(j.By, j.DeniedBy), func(by policy.RuleRef) bool {
				return by.Policy == r.ref.Policy && by.Rule == r.ref.Rule
			}) {
				return rule{}, false
			}
		}
	}
	return rule{}, false
}

// byAddress reports whether the peer that a rule has decided by is a network which may hold some pods'
// addresses and others not. addr is a placeholder.
func (x *Explainer) byAddress(ref policy.RuleRef, addr netip.Addr) bool {
	for _, r := range x.rulesOf(ref.Policy, ref.Direction) {
		if r.ref.Rule == ref.Rule && ref.Peer >= 0 && ref.Peer < len(r.peers) {
			return x.dividesPods(r.peers[ref.Peer:ref.Peer+1], addr)
		}
	}
	return false
}

// dividesPods reports whether some network of peers may mean the pod otherwise than it means the placeholder
// that the pod has as its address.
func (x *Explainer) dividesPods(peers []peer, addr netip.Addr) bool {
	return slices.ContainsFunc(peers, func(p peer) bool {
		return slices.ContainsFunc(p.blocks, func(b block) bool { return x.mayDiffer(b, addr) })
	})
}

// mayDiffer reports whether a network may hold a pod's address and not its placeholder, or the reverse.
func (x *Explainer) mayDiffer(b block, addr netip.Addr) bool {
	cidr, err := policy.ParsePrefix(b.cidr)
	if err != nil {
		return true
	}
	if cidr.Addr().Is4() != addr.Is4() {
		return false
	}
	holds, all := cidr.Contains(addr), x.podAddresses.allIn(cidr)
	for _, text := range b.except {
		except, err := policy.ParsePrefix(text)
		if err != nil {
			return true
		}
		holds, all = holds && !except.Contains(addr), all && !x.podAddresses.someIn(except)
	}
	switch {
	case all:
		return !holds
	case !x.podAddresses.someIn(cidr):
		return holds
	}
	return true
}

// podAddresses are the ranges that all addresses of pods are in, by the Nodes' podCIDRs; of a family without
// any, pods' addresses may be anywhere but in neverPods.
type podAddresses []netip.Prefix

// neverPods are ranges of which no pod has its address: loopback, link-local and multicast, which routers do
// not forward as they do pods' packets (RFC 6890, RFC 5771, RFC 4291), and where cloud providers answer on each
// machine, such as with its metadata: 169.254.169.254, fd00:ec2::254 (AWS) and fd20:ce::254 (Google Cloud).
var neverPods = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
	netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("fd20:ce::254/128"),
}

// podAddressesOf are the podCIDRs of nodes. They say nothing where a node has none, or a pod has an address
// outside of them, as other plugins than podfence's may give out others.
func podAddressesOf(nodes []policy.Node, pods []*corev1.Pod) (all podAddresses) {
	for _, node := range nodes {
		if len(node.PodCIDRs) == 0 {
			return nil
		}
		all = append(all, node.PodCIDRs...)
	}
	for _, pod := range pods {
		seen, live := policy.PodOf(pod)
		if !live || standsIn(pod) || pod.Spec.HostNetwork {
			continue
		}
		if slices.ContainsFunc(seen.IPs, func(addr netip.Addr) bool {
			return !slices.ContainsFunc(all, func(r netip.Prefix) bool { return r.Contains(addr) })
		}) {
			return nil
		}
	}
	return all
}

// of are the ranges of the family of a network.
func (a podAddresses) of(cidr netip.Prefix) (ranges []netip.Prefix) {
	for _, r := range a {
		if r.Addr().Is4() == cidr.Addr().Is4() {
			ranges = append(ranges, r)
		}
	}
	return ranges
}

// allIn reports whether a network holds the address of every pod that has one of its family.
func (a podAddresses) allIn(cidr netip.Prefix) bool {
	ranges := a.of(cidr)
	return cidr.Bits() == 0 || len(ranges) > 0 && !slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return !within(r, cidr) })
}

// someIn reports whether a network may hold the address of a pod.
func (a podAddresses) someIn(cidr netip.Prefix) bool {
	if ranges := a.of(cidr); len(ranges) > 0 {
		return slices.ContainsFunc(ranges, cidr.Overlaps)
	}
	return !slices.ContainsFunc(neverPods, func(never netip.Prefix) bool { return within(cidr, never) })
}

// within reports whether a network is a part of another, or the same.
func within(part, whole netip.Prefix) bool {
	return whole.Bits() <= part.Bits() && whole.Overlaps(part)
}

// placeholderNote says why an answer is not known.
func placeholderNote(r rule, peer End) Note {
	return Note{"PlaceholderAddress", fmt.Sprintf(
		"%s %s names addresses, and %s has none yet: whether that means it will be known when it runs. Name pods by selectors.", r.policy, r.path, peer)}
}
