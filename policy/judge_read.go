package policy

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// This file says what the API objects' fields mean to Judge, from the API's documentation and
// validation (k8s.io/api, and k8s.io/kubernetes/pkg/apis) and the RFCs. It calls nothing that
// the judged code calls, and no library of Kubernetes: whoever changes a meaning must change
// it here as well, or the two disagree.

// leadingZeros matches the leading zeros of a number, which API servers have always accepted
// in addresses. They mean nothing: the numbers of an IPv4 address are decimal.
var leadingZeros = regexp.MustCompile(`(^|[.:])0+([0-9A-Fa-f])`)

// readAddr reads an address. An IPv4 address that is written as IPv6 is an IPv4 address.
func readAddr(text string) (addr netip.Addr, ok bool) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		addr, err = netip.ParseAddr(leadingZeros.ReplaceAllString(text, "$1$2"))
	}
	return addr.Unmap(), err == nil && addr.Zone() == ""
}

// readAddrs reads addresses. If one of them is none, none is read.
func readAddrs(texts []string) (addrs []netip.Addr, ok bool) {
	for _, text := range texts {
		addr, ok := readAddr(text)
		if !ok {
			return nil, false
		}
		addrs = append(addrs, addr)
	}
	return addrs, true
}

// sameAddrs reports whether two lists have the same addresses.
func sameAddrs(a, b []netip.Addr) bool {
	within := func(a, b []netip.Addr) bool {
		return !slices.ContainsFunc(a, func(addr netip.Addr) bool { return !slices.Contains(b, addr) })
	}
	return within(a, b) && within(b, a)
}

// readRange reads a range of addresses: an address in it, and how many bits of it count. A
// range that is written with an IPv4-mapped address is one of IPv4 if all its addresses are.
func readRange(text string) (cidr netip.Prefix, ok bool) {
	start, length, found := strings.Cut(text, "/")
	addr, ok := readAddr(start)
	bits, err := strconv.ParseUint(length, 10, 8)
	if !found || !ok || err != nil {
		return cidr, false
	}
	n := int(bits)
	if strings.Contains(start, ":") && addr.Is4() {
		if n < 96 {
			return netip.PrefixFrom(netip.AddrFrom16(addr.As16()), n).Masked(), true
		}
		n -= 96
	}
	cidr = netip.PrefixFrom(addr, n).Masked()
	return cidr, cidr.IsValid()
}

// live reports whether a pod is there to be judged: on the pod network, and not ended.
func live(pod *corev1.Pod) bool {
	return !pod.Spec.HostNetwork && pod.Status.Phase != "Succeeded" && pod.Status.Phase != "Failed"
}

// podAddrs are the addresses that the API shows of a pod: podIPs, or, where an old kubelet
// has written it, podIP alone.
func podAddrs(pod *corev1.Pod) (addrs []netip.Addr) {
	shown := pod.Status.PodIPs
	if len(shown) == 0 {
		shown = []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	for _, ip := range shown {
		if addr, ok := readAddr(ip.IP); ok {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// podUIDs are the UIDs that name a pod. A static pod has one that kubelet gave it; its mirror
// in the API server has another.
func podUIDs(pod *corev1.Pod) []types.UID {
	uids := []types.UID{pod.UID}
	if static, mirror := pod.Annotations["kubernetes.io/config.mirror"]; mirror {
		uids = append(uids, types.UID(static))
	}
	return uids
}

// namesPort reports whether a pod has a port of this name, protocol and number: of its
// containers, its init containers and the sidecars among them. Ephemeral containers have none.
// A host port is not meant.
func namesPort(spec corev1.PodSpec, name string, protocol corev1.Protocol, number int32) bool {
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, p := range c.Ports {
			named := p.Protocol
			if named == "" {
				named = corev1.ProtocolTCP
			}
			if p.Name == name && p.Name != "" && named == protocol && p.ContainerPort == number {
				return true
			}
		}
	}
	return false
}

// nodeAddrs are the addresses of the given types that a node lists as its own; of all types, if
// none is given. An address that every host has, such as a loopback or a link-local address, is
// left out: it does not say which host is meant.
func nodeAddrs(node *corev1.Node, types ...corev1.NodeAddressType) (addrs []netip.Addr) {
	for _, listed := range node.Status.Addresses {
		if len(types) > 0 && !slices.Contains(types, listed.Type) {
			continue
		}
		if addr, ok := readAddr(listed.Address); ok && addr.IsGlobalUnicast() {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// podRanges are the ranges from which a node gives its pods addresses: podCIDRs, or podCIDR,
// where that is all there is.
func podRanges(node *corev1.Node) (ranges []netip.Prefix) {
	shown := node.Spec.PodCIDRs
	if len(shown) == 0 {
		shown = []string{node.Spec.PodCIDR}
	}
	for _, text := range shown {
		if cidr, ok := readRange(text); ok {
			ranges = append(ranges, cidr)
		}
	}
	return ranges
}

// isolates reports whether the policy isolates the pods it selects for d.
func isolates(np *networkingv1.NetworkPolicy, d Direction) bool {
	covered := np.Spec.PolicyTypes
	if len(covered) == 0 {
		return d == Ingress || len(np.Spec.Egress) > 0
	}
	want := networkingv1.PolicyTypeIngress
	if d == Egress {
		want = networkingv1.PolicyTypeEgress
	}
	return slices.ContainsFunc(covered, func(t networkingv1.PolicyType) bool {
		return t == want || t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress
	})
}

// selects reports whether a selector, which must not be nil, selects these labels. A selector
// that is not valid selects nothing.
func selects(ls *metav1.LabelSelector, l map[string]string) bool {
	for key, value := range ls.MatchLabels {
		if has, exists := l[key]; !exists || has != value || !isLabel(key, value) {
			return false
		}
	}
	for _, e := range ls.MatchExpressions {
		if !meets(e, l) || !isLabel(e.Key, e.Values...) {
			return false
		}
	}
	return true
}

// meets reports whether labels meet a requirement. None meets one that is not valid.
func meets(e metav1.LabelSelectorRequirement, l map[string]string) bool {
	value, exists := l[e.Key]
	switch e.Operator {
	case "In":
		return exists && slices.Contains(e.Values, value)
	case "NotIn":
		return len(e.Values) > 0 && (!exists || !slices.Contains(e.Values, value))
	case "Exists":
		return exists && len(e.Values) == 0
	case "DoesNotExist":
		return !exists && len(e.Values) == 0
	}
	return false
}

var (
	labelPrefix = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	labelName   = regexp.MustCompile(`^([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$`)
)

// isLabel reports whether a label may have this key and each of these values.
func isLabel(key string, values ...string) bool {
	name := key
	if prefix, unprefixed, found := strings.Cut(key, "/"); found {
		if name = unprefixed; len(prefix) > 253 || !labelPrefix.MatchString(prefix) {
			return false
		}
	}
	return labelName.MatchString(name) && !slices.ContainsFunc(values, func(v string) bool { return v != "" && !labelName.MatchString(v) })
}

// inBlock reports whether an address is in a block and in no except of it. A block of which the
// cidr or an except cannot be read has no address in it.
func inBlock(block *networkingv1.IPBlock, addr netip.Addr) bool {
	cidr, ok := readRange(block.CIDR)
	in := ok && cidr.Contains(addr)
	for _, text := range block.Except {
		except, ok := readRange(text)
		in = in && ok && !except.Contains(addr)
	}
	return in
}

// isDiscovery reports whether this is a message without which no IPv6 link works, in the form
// that its RFC prescribes: neighbour discovery (RFC 4861 section 4.3, 4.4, 7.1), or listener
// discovery (RFC 2710 section 3, RFC 3810 section 5).
func isDiscovery(p Packet) bool {
	if p.Protocol != ICMPv6 || p.Src.IsLoopback() || p.Extended {
		return false
	}
	solicited := netip.MustParsePrefix("ff02::1:ff00:0/104")
	toOne := !p.Dst.IsMulticast() && !p.Dst.IsUnspecified() && !p.Dst.IsLoopback()
	switch p.ICMPType {
	case 135:
		return p.HopLimit == 255 && !p.HopByHop && !p.Src.IsMulticast() && (toOne || solicited.Contains(p.Dst))
	case 136:
		return p.HopLimit == 255 && !p.HopByHop && !p.Src.IsMulticast() && (toOne || p.Dst == netip.IPv6LinkLocalAllNodes())
	case 130, 131, 132, 143:
		return p.HopLimit == 1 && p.Dst.IsMulticast() && (p.Src.IsLinkLocalUnicast() || p.Src.IsUnspecified())
	}
	return false
}

// asksForRouters reports whether this is a router solicitation (RFC 4861 section 4.1).
func asksForRouters(p Packet) bool {
	return p.Protocol == ICMPv6 && p.ICMPType == 133 && p.HopLimit == 255 && p.Dst == netip.IPv6LinkLocalAllRouters()
}

// isError reports whether this is an ICMP error (RFC 792; RFC 4443 section 2.1).
func isError(p Packet) bool {
	switch p.Protocol {
	case ICMP:
		return slices.Contains([]uint8{3, 4, 5, 11, 12}, p.ICMPType)
	case ICMPv6:
		return p.ICMPType < 128
	}
	return false
}
