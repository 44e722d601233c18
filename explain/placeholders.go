package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

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

// uncertain is the rule by which a side could decide otherwise once the peer has its real address; false:
// there is none. j is what is decided with the placeholder.
func (x *Explainer) uncertain(j policy.Judgement, p packet) (r rule, is bool) {
	if !p.peerEnd.StandIn || !j.Fenced() {
		return rule{}, false
	}
	bySelector := false // a rule of a NetworkPolicy allows it, whatever the address is
	for _, ref := range j.By {
		bySelector = bySelector || ref.Policy.Namespace != "" && !x.byAddress(ref)
	}
	for _, ref := range x.asked(j) {
		if ref.Kind == "NetworkPolicy" && bySelector {
			continue
		}
		for _, r := range x.rulesOf(policy.Key{Namespace: ref.Namespace, Name: ref.Name}, p.d) {
			if len(j.DeniedBy) > 0 && r.ref.Policy == j.DeniedBy[0].Policy && r.ref.Rule > j.DeniedBy[0].Rule {
				break
			}
			if r.namesAddresses() && (len(r.ports) == 0 || len(missedPorts(r, p)) == 0) {
				return r, true
			}
		}
	}
	return rule{}, false
}

// byAddress reports whether the peer that a rule has decided by is a network that is not all addresses.
func (x *Explainer) byAddress(ref policy.RuleRef) bool {
	for _, r := range x.rulesOf(ref.Policy, ref.Direction) {
		if r.ref.Rule == ref.Rule && ref.Peer >= 0 && ref.Peer < len(r.peers) {
			return r.peers[ref.Peer].namesAddresses()
		}
	}
	return false
}

// namesAddresses reports whether a peer of the rule is a network that is not all addresses.
func (r rule) namesAddresses() bool {
	for _, p := range r.peers {
		if p.namesAddresses() {
			return true
		}
	}
	return false
}

func (p peer) namesAddresses() bool {
	for _, b := range p.blocks {
		cidr, err := netip.ParsePrefix(b.cidr)
		if err != nil || cidr.Bits() > 0 || len(b.except) > 0 {
			return true
		}
	}
	return false
}

// placeholderNote says why an answer is not known.
func placeholderNote(r rule, peer End) Note {
	return Note{"PlaceholderAddress", fmt.Sprintf(
		"%s %s names addresses, and %s has none yet: whether that means it will be known when it runs. Name pods by selectors.", r.policy, r.path, peer)}
}
