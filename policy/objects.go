package policy

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Key names a namespaced object: "namespace/name". That of a ClusterNetworkPolicy has no namespace.
type Key = types.NamespacedName

// PolicyName says which policy a key names: "NetworkPolicy namespace/name", or "ClusterNetworkPolicy
// name".
func PolicyName(key Key) string {
	if key.Namespace == "" {
		return "ClusterNetworkPolicy " + key.Name
	}
	return "NetworkPolicy " + key.String()
}

// Pod is what policy needs of a pod: a live one, on the pod network.
type Pod struct {
	Key
	// UID is what kubelet and the container runtime know the pod by.
	UID types.UID
	// MirrorUID is what the API server knows a static pod by; empty: it is none.
	MirrorUID types.UID
	Node      string
	Labels    Labels
	// IPs are the addresses of the pod's attachments, if it has any on this node, or those that its
	// node's agent has announced, else all of status.podIPs, with IPv4-mapped ones as IPv4. There
	// may be none yet.
	IPs []netip.Addr
	// located says that IPs are not what the API shows, but those of attachments or announced ones.
	located bool
	// Ports are the named ports of all containers, sorted, each once.
	Ports []ContainerPort
	// Terminating: where several pods claim an address, this one yields to those that stay.
	Terminating bool
	// Unread: its labels and ports were not kept. Only a selector that means all pods means it,
	// and on its own node it is isolated in both directions.
	Unread bool
}

// Unkept returns the pod without its labels and ports, as one that is Unread.
func (p Pod) Unkept() *Pod {
	p.Labels, p.Ports, p.Unread = Labels{}, nil, true
	return &p
}

// ContainerPort is a named port of a pod.
type ContainerPort struct {
	Name     string
	Protocol Protocol
	Number   uint16
}

// IsOf reports whether a UID is the pod's. A static pod goes by either of its UIDs.
func (p *Pod) IsOf(uid types.UID) bool { return uid != "" && (uid == p.UID || uid == p.MirrorUID) }

// PodOf reads a pod. It reports false for one that policy does not see: on the
// host's network (that is node traffic), or Succeeded or Failed (its address
// may be another pod's by now).
//
// A terminating pod counts until it is terminal or gone: its containers may
// still be talking.
func PodOf(p *corev1.Pod) (*Pod, bool) {
	if p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil, false
	}
	pod := &Pod{
		Key:         Key{Namespace: p.Namespace, Name: p.Name},
		UID:         uidOf(p),
		MirrorUID:   mirrorUIDOf(p),
		Node:        p.Spec.NodeName,
		Labels:      LabelsOf(p.Labels),
		IPs:         podIPs(p),
		Terminating: p.DeletionTimestamp != nil,
	}
	for _, containers := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range containers {
			for _, port := range c.Ports {
				protocol, ok := protocolOf(port.Protocol)
				if port.Name == "" || !ok || port.ContainerPort < 1 || port.ContainerPort > 65535 {
					continue
				}
				pod.Ports = append(pod.Ports, ContainerPort{Name: port.Name, Protocol: protocol, Number: uint16(port.ContainerPort)})
			}
		}
	}
	slices.SortFunc(pod.Ports, func(a, b ContainerPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Number, b.Number))
	})
	pod.Ports = slices.Compact(pod.Ports)
	return pod, true
}

// uidOf is the UID that kubelet and the container runtime know a pod by. Of a static pod
// the API server has a mirror, with a UID of its own; the static pod's is in the mirror's
// annotation, whether the manifest has given it or kubelet (as a hash).
func uidOf(p *corev1.Pod) types.UID {
	if static, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return types.UID(static)
	}
	return p.UID
}

// mirrorUIDOf is the UID of the mirror that the API server has of a static pod.
func mirrorUIDOf(p *corev1.Pod) types.UID {
	if _, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return p.UID
	}
	return ""
}

// podIPs returns the pod's addresses: status.podIPs, or the older
// status.podIP where that is all there is.
func podIPs(p *corev1.Pod) []netip.Addr {
	texts := make([]string, 0, 2)
	for _, ip := range p.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	if len(texts) == 0 {
		texts = append(texts, p.Status.PodIP)
	}
	var ips []netip.Addr
	for _, text := range texts {
		if ip, ok := parseAddr(text); ok {
			ips = append(ips, ip)
		}
	}
	slices.SortFunc(ips, netip.Addr.Compare)
	return slices.Compact(ips)
}

// equal reports whether nothing that policy looks at differs: most pod updates
// are status changes that do not.
func (p *Pod) equal(q *Pod) bool {
	return p.Key == q.Key && p.UID == q.UID && p.MirrorUID == q.MirrorUID && p.located == q.located && p.Node == q.Node && p.Terminating == q.Terminating && p.Unread == q.Unread &&
		slices.Equal(p.IPs, q.IPs) && slices.Equal(p.Ports, q.Ports) && p.Labels == q.Labels
}

// Namespace is what policy needs of a namespace.
type Namespace struct {
	Name   string
	Labels map[string]string
	// Staged: its NetworkPolicies are staged.
	Staged bool
}

// NamespaceOf reads a namespace.
func NamespaceOf(ns *corev1.Namespace) Namespace {
	staged, _ := StagedBy(ns.Annotations)
	return Namespace{Name: ns.Name, Labels: ns.Labels, Staged: staged}
}

// Node is what policy needs of a node.
type Node struct {
	Name string
	// PodCIDRs are the ranges that this node's pods get their addresses from.
	PodCIDRs []netip.Prefix
	// Addrs are those of the node's own addresses inside the cluster (InternalIP) that can be
	// used, in the API's order: of addresses in two networks, those in the first are preferred.
	Addrs []netip.Addr
	// Labels and Listed are for policies that name nodes. Listed are the addresses of every kind that
	// status.addresses shows, in order, if they can be used.
	Labels Labels
	Listed []netip.Addr
}

// listed are all addresses that are known to be the node's, in order: also those of Addrs that the
// API does not show any more.
func (n *Node) listed() []netip.Addr { return united(n.Listed, sortedAddrs(n.Addrs)) }

// keepRanges returns a node's pod ranges as last known: those that it has now and, for an
// address family that it has none of now, those that it had before. A Node object can be
// deleted, or come without ranges for a while; the containers with addresses in them
// stay.
func keepRanges(now, before []netip.Prefix) []netip.Prefix {
	ranges := slices.Clone(now)
	for _, old := range before {
		if !slices.ContainsFunc(now, func(p netip.Prefix) bool { return p.Addr().Is4() == old.Addr().Is4() }) {
			ranges = append(ranges, old)
		}
	}
	slices.SortFunc(ranges, comparePrefix)
	return ranges
}

// clusterOf are the ranges inside the cluster: the nodes' addresses, the pod ranges of all
// nodes, and this node's own pod ranges as last known.
func clusterOf(nodes iter.Seq[Node], own []netip.Prefix) []netip.Prefix {
	prefixes := slices.Clone(own)
	for n := range nodes {
		prefixes = append(prefixes, n.PodCIDRs...)
		for _, addr := range n.Addrs {
			prefixes = append(prefixes, netip.PrefixFrom(addr, addr.BitLen()))
		}
	}
	return Union(prefixes)
}

// addrsOf are the addresses of nodes, in order.
func addrsOf(nodes iter.Seq[Node]) (addrs []netip.Addr) {
	for n := range nodes {
		addrs = append(addrs, n.Addrs...)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// NodeOf reads a node. Ranges that do not parse are left out. An unknown address in such a range
// is then not dropped, as on a node that has no ranges.
func NodeOf(n *corev1.Node) Node {
	node := Node{Name: n.Name, Labels: LabelsOf(n.Labels)}
	texts := n.Spec.PodCIDRs
	if len(texts) == 0 && n.Spec.PodCIDR != "" {
		texts = []string{n.Spec.PodCIDR}
	}
	for _, text := range texts {
		if prefix, err := ParsePrefix(text); err == nil {
			node.PodCIDRs = append(node.PodCIDRs, prefix)
		}
	}
	slices.SortFunc(node.PodCIDRs, comparePrefix)
	node.PodCIDRs = slices.Compact(node.PodCIDRs)
	for _, text := range internalIPs(n) {
		if addr, usable := nodeAddr(text); usable && !slices.Contains(node.Addrs, addr) {
			node.Addrs = append(node.Addrs, addr)
		}
	}
	for _, address := range n.Status.Addresses {
		if addr, usable := nodeAddr(address.Address); usable {
			node.Listed = append(node.Listed, addr)
		}
	}
	node.Listed = sortedAddrs(node.Listed)
	return node
}

// UnusableAddrs are the InternalIPs of a node that NodeOf leaves out: those that are no address,
// and those that do not say which host is meant, such as a link-local address.
func UnusableAddrs(n *corev1.Node) (texts []string) {
	for _, text := range internalIPs(n) {
		if _, usable := nodeAddr(text); !usable {
			texts = append(texts, text)
		}
	}
	return texts
}

func internalIPs(n *corev1.Node) (texts []string) {
	for _, address := range n.Status.Addresses {
		if address.Type == corev1.NodeInternalIP {
			texts = append(texts, address.Address)
		}
	}
	return texts
}

func nodeAddr(text string) (addr netip.Addr, usable bool) {
	addr, ok := parseAddr(text)
	return addr, ok && addr.IsGlobalUnicast()
}
