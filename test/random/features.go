package random

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/policy"
)

// Features says which features of pods, nodes and policies a cluster has: those on which
// firewalls have been wrong.
func Features(s policy.Snapshot) map[string]bool {
	features := map[string]bool{}
	attachmentFeatures(s, features)
	announcedFeatures(s, features)
	podFeatures(s, features)
	nodeFeatures(s, features)
	for _, name := range namespaces {
		known := slices.ContainsFunc(s.Namespaces, func(ns *corev1.Namespace) bool { return ns.Name == name })
		pods := slices.ContainsFunc(s.Pods, func(p *corev1.Pod) bool { return p.Namespace == name })
		features["namespace: not known, with pods"] = features["namespace: not known, with pods"] || pods && !known
	}
	policyFeatures(s, features)
	clusterPolicyFeatures(s, features)
	stagedFeatures(s, features)
	return features
}

// some reports whether one of all is so.
func some[T any](all []T, is func(T) bool) bool { return slices.ContainsFunc(all, is) }

// runs reports whether a pod is one of Node's that has not ended.
func runs(p *corev1.Pod) bool { return p.Spec.NodeName == Node && !p.Spec.HostNetwork && !ended(p) }

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// made reports whether an attachment was made for a pod's name on Node.
func made(a policy.Attachment, p *corev1.Pod) bool {
	return a.Pod.Namespace == p.Namespace && a.Pod.Name == p.Name && p.Spec.NodeName == Node
}

func attachmentFeatures(s policy.Snapshot, f map[string]bool) {
	of := func(p *corev1.Pod) []policy.Attachment {
		return slices.DeleteFunc(slices.Clone(s.Attachments), func(a policy.Attachment) bool { return !made(a, p) })
	}
	all := func(is func(policy.Attachment) bool) bool { return some(s.Attachments, is) }
	f["attachment: other addresses than the API shows"] = some(s.Pods, func(p *corev1.Pod) bool {
		return runs(p) && some(of(p), func(a policy.Attachment) bool {
			return a.UID == p.UID && some(a.IPs, func(ip netip.Addr) bool { return !slices.Contains(PodAddrsOf(p), ip) })
		})
	})
	f["attachment: its address is shown for another pod"] = all(func(a policy.Attachment) bool {
		return some(s.Pods, func(p *corev1.Pod) bool {
			return !made(a, p) && some(PodAddrsOf(p), func(ip netip.Addr) bool { return slices.Contains(a.IPs, ip) })
		})
	})
	f["attachment: without UID"] = all(func(a policy.Attachment) bool { return a.UID == "" })
	f["attachment: of an earlier pod of the name"] = some(s.Pods, func(p *corev1.Pod) bool {
		return some(of(p), func(a policy.Attachment) bool {
			return a.UID != "" && a.UID != p.UID && string(a.UID) != p.Annotations[corev1.MirrorPodAnnotationKey]
		})
	})
	f["attachment: of a static pod, by its own UID"] = some(s.Pods, func(p *corev1.Pod) bool {
		static, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]
		return mirror && some(of(p), func(a policy.Attachment) bool { return string(a.UID) == static })
	})
	f["attachment: its pod is not known"] = all(func(a policy.Attachment) bool {
		return !some(s.Pods, func(p *corev1.Pod) bool { return made(a, p) })
	})
	f["attachment: its pod has ended"] = some(s.Pods, func(p *corev1.Pod) bool { return ended(p) && len(of(p)) > 0 })
	f["attachment: its pod runs on another node"] = some(s.Pods, func(p *corev1.Pod) bool {
		return p.Spec.NodeName != Node && all(func(a policy.Attachment) bool { return a.Pod.Name == p.Name && a.Pod.Namespace == p.Namespace })
	})
	f["attachment: several of a pod"] = some(s.Pods, func(p *corev1.Pod) bool { return len(of(p)) > 1 })
	f["attachment: only a second interface"] = some(s.Pods, func(p *corev1.Pod) bool {
		return len(of(p)) > 0 && !some(of(p), func(a policy.Attachment) bool { return a.IfName == "eth0" })
	})
	f["attachment: none of a running pod"] = len(s.Attachments) > 0 && some(s.Pods, func(p *corev1.Pod) bool { return runs(p) && len(of(p)) == 0 })
	f["attachment: of one family"] = all(func(a policy.Attachment) bool { return len(a.IPs) == 1 })
	f["attachment: two have one address"] = all(func(a policy.Attachment) bool {
		return all(func(b policy.Attachment) bool {
			return a.Pod != b.Pod && some(a.IPs, func(ip netip.Addr) bool { return slices.Contains(b.IPs, ip) })
		})
	})
}

func podFeatures(s policy.Snapshot, f map[string]bool) {
	has := func(name string, is func(*corev1.Pod) bool) { f["pod: "+name] = some(s.Pods, is) }
	for _, phase := range []corev1.PodPhase{corev1.PodPending, corev1.PodUnknown, corev1.PodSucceeded, corev1.PodFailed} {
		has("is "+string(phase)+" and shows an address", func(p *corev1.Pod) bool { return p.Status.Phase == phase && len(PodAddrsOf(p)) > 0 })
	}
	has("terminates", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	has("on no node", func(p *corev1.Pod) bool { return p.Spec.NodeName == "" })
	has("on a third node", func(p *corev1.Pod) bool { return p.Spec.NodeName == thirdNode })
	has("on a tenth node", func(p *corev1.Pod) bool { return p.Spec.NodeName == tenthNode })
	has("in the policies' second namespace, on the node", func(p *corev1.Pod) bool { return runs(p) && p.Namespace == namespaces[1] })
	has("in the policies' third namespace, on the node", func(p *corev1.Pod) bool { return runs(p) && p.Namespace == namespaces[2] })
	has("host network, with its node's address", func(p *corev1.Pod) bool {
		return p.Spec.HostNetwork && some(PodAddrsOf(p), func(ip netip.Addr) bool { return slices.Contains(ownAddrs(p.Spec.NodeName), ip) })
	})
	has("a node's address, though not on the host's network", ShowsNode)
	has("static", func(p *corev1.Pod) bool { return p.Annotations[corev1.MirrorPodAnnotationKey] != "" })
	has("shows no address", func(p *corev1.Pod) bool { return p.Status.PodIP == "" && len(p.Status.PodIPs) == 0 })
	has("IPv6 alone", func(p *corev1.Pod) bool { ips := PodAddrsOf(p); return len(ips) == 1 && ips[0].Is6() })
	has("IPv4 alone", func(p *corev1.Pod) bool { ips := PodAddrsOf(p); return len(ips) == 1 && ips[0].Is4() })
	has("IPv6 first", func(p *corev1.Pod) bool { ips := PodAddrsOf(p); return len(ips) == 2 && ips[0].Is6() })
	has("podIP alone", func(p *corev1.Pod) bool { return p.Status.PodIP != "" && len(p.Status.PodIPs) == 0 })
	texts := func(p *corev1.Pod) string {
		text := p.Status.PodIP
		for _, ip := range p.Status.PodIPs {
			text += " " + ip.IP
		}
		return strings.ToLower(text)
	}
	has("mapped address", func(p *corev1.Pod) bool { return strings.Contains(texts(p), "ffff:") })
	has("address with leading zeros", func(p *corev1.Pod) bool { return strings.Contains(texts(p), "010.244.") })
	has("address outside all ranges", func(p *corev1.Pod) bool {
		return !p.Spec.HostNetwork && some(PodAddrsOf(p), func(ip netip.Addr) bool {
			return !some(s.Nodes, func(n *corev1.Node) bool {
				return some(RangesOf(n), func(c netip.Prefix) bool { return c.Contains(ip) })
			})
		})
	})
	has("another node's, with an address of the node's ranges", func(p *corev1.Pod) bool {
		return p.Spec.NodeName != Node && !p.Spec.HostNetwork && some(PodAddrsOf(p), func(ip netip.Addr) bool {
			return some(PodRanges, func(c netip.Prefix) bool { return c.Contains(ip) })
		})
	})
	has("shows an address that another shows", func(p *corev1.Pod) bool {
		return some(s.Pods, func(q *corev1.Pod) bool {
			return p != q && some(PodAddrsOf(p), func(ip netip.Addr) bool { return slices.Contains(PodAddrsOf(q), ip) })
		})
	})
	containerFeatures(s, f)
}

func containerFeatures(s policy.Snapshot, f map[string]bool) {
	has := func(name string, is func(*corev1.Pod) bool) {
		f["container: "+name] = some(s.Pods, func(p *corev1.Pod) bool { return !p.Spec.HostNetwork && !ended(p) && is(p) })
	}
	named := func(p corev1.ContainerPort) bool { return p.Name != "" }
	ports := func(p *corev1.Pod) (ports []corev1.ContainerPort) {
		for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
			ports = append(ports, c.Ports...)
		}
		return ports
	}
	has("init, with a named port", func(p *corev1.Pod) bool {
		return some(p.Spec.InitContainers, func(c corev1.Container) bool { return c.RestartPolicy == nil && some(c.Ports, named) })
	})
	has("sidecar, with a named port", func(p *corev1.Pod) bool {
		return some(p.Spec.InitContainers, func(c corev1.Container) bool { return c.RestartPolicy != nil && some(c.Ports, named) })
	})
	has("ephemeral, with a named port", func(p *corev1.Pod) bool {
		return some(p.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return some(c.Ports, named) })
	})
	has("port on the host", func(p *corev1.Pod) bool {
		return some(ports(p), func(p corev1.ContainerPort) bool { return p.HostPort != 0 && p.HostPort != p.ContainerPort })
	})
	has("port without a name", func(p *corev1.Pod) bool {
		return some(ports(p), func(p corev1.ContainerPort) bool { return p.Name == "" })
	})
	has("named port without a protocol", func(p *corev1.Pod) bool {
		return some(ports(p), func(p corev1.ContainerPort) bool { return p.Name != "" && p.Protocol == "" })
	})
}

func nodeFeatures(s policy.Snapshot, f map[string]bool) {
	has := func(name string, is func(*corev1.Node) bool) { f["node: "+name] = some(s.Nodes, is) }
	f["node: the agent's own is not known"] = !some(s.Nodes, func(n *corev1.Node) bool { return n.Name == Node })
	f["node: ranges are known from before"] = len(s.LastPodCIDRs) > 0 && f["node: the agent's own is not known"]
	has("a third", func(n *corev1.Node) bool { return n.Name == thirdNode })
	has("a tenth", func(n *corev1.Node) bool { return n.Name == tenthNode })
	has("no ranges", func(n *corev1.Node) bool { return len(RangesOf(n)) == 0 })
	has("ranges of one family", func(n *corev1.Node) bool {
		ranges := RangesOf(n)
		return len(ranges) > 0 && !some(ranges, func(c netip.Prefix) bool { return c.Addr().Is4() != ranges[0].Addr().Is4() })
	})
	has("podCIDR alone", func(n *corev1.Node) bool { return n.Spec.PodCIDR != "" && len(n.Spec.PodCIDRs) == 0 })
	has("other ranges than its pods'", func(n *corev1.Node) bool {
		return n.Name == Node && len(RangesOf(n)) > 0 && !some(RangesOf(n), func(c netip.Prefix) bool { return some(PodRanges, c.Overlaps) })
	})
	has("ranges overlap another's", func(n *corev1.Node) bool {
		return some(s.Nodes, func(m *corev1.Node) bool {
			return n.Name != m.Name && some(RangesOf(n), func(c netip.Prefix) bool { return some(RangesOf(m), c.Overlaps) })
		})
	})
	has("ranges oddly spelled", func(n *corev1.Node) bool {
		return some(n.Spec.PodCIDRs, func(text string) bool { _, odd := spelledRanges[text]; return odd })
	})
	has("an external address", func(n *corev1.Node) bool {
		return some(n.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Type == corev1.NodeExternalIP })
	})
	has("has labels", func(n *corev1.Node) bool { return len(n.Labels) > 0 })
	addresses := func(is func(corev1.NodeAddress) bool) func(*corev1.Node) bool {
		return func(n *corev1.Node) bool { return some(n.Status.Addresses, is) }
	}
	has("a hostname that is an address", addresses(func(a corev1.NodeAddress) bool {
		_, err := netip.ParseAddr(a.Address)
		return a.Type == corev1.NodeHostName && err == nil
	}))
	has("an address that many hosts have", addresses(func(a corev1.NodeAddress) bool { return a.Address == Metadata[0].String() }))
	has("an address that a pod shows", addresses(func(a corev1.NodeAddress) bool {
		return some(s.Pods, func(p *corev1.Pod) bool {
			return !p.Spec.HostNetwork && !ended(p) && some(PodAddrsOf(p), func(ip netip.Addr) bool { return ip.String() == a.Address })
		})
	}))
	has("an address of its own is missing", func(n *corev1.Node) bool {
		return some(ownAddrs(n.Name), func(ip netip.Addr) bool {
			return !some(n.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Address == ip.String() })
		})
	})
}
