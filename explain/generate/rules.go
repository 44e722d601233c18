package generate

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// rule is a rule of a policy: all of its peers at all of its ports.
type rule struct {
	entries []entry
	ports   []networkingv1.NetworkPolicyPort
	comment string
}

// entry is a peer of a rule.
type entry struct {
	peer    networkingv1.NetworkPolicyPeer
	comment string
}

// allowance is a peer, and the ports at which it is needed.
type allowance struct {
	entry
	ports []networkingv1.NetworkPolicyPort
	order string
}

// rules are what is needed, as rules: peers with the same ports share one, so that each rule allows just what was
// seen. to is the unit whose ports they are; nil: each peer's own.
func (g *generator) rules(n *needs, namespace string, to *unit) []rule {
	var all []allowance
	for peer, ports := range n.units {
		if peer.selector == nil {
			continue // the report says so
		}
		a := allowance{order: "0 " + metav1.FormatLabelSelector(peer.selector)}
		a.peer.PodSelector = peer.selector
		if peer.namespace != namespace {
			a.peer.NamespaceSelector = namespaceSelector(peer.namespace)
			a.order = "1 " + peer.namespace + " " + a.order
		}
		destination := to
		if to == nil {
			destination = peer
		}
		all = append(all, g.allow(a, ports, destination))
	}
	for addr, ports := range n.nodes {
		all = append(all, g.allow(blockOf(netip.PrefixFrom(addr, addr.BitLen())), ports, to))
	}
	for network, ports := range g.networks(n.outside) {
		all = append(all, g.allow(blockOf(network), ports, to))
	}
	slices.SortFunc(all, func(a, b allowance) int { return cmp.Compare(a.order, b.order) })
	byPorts := map[string][]allowance{}
	for _, a := range all {
		key := portsText(a.ports)
		byPorts[key] = append(byPorts[key], a)
	}
	var rules []rule
	for _, key := range slices.SortedFunc(maps.Keys(byPorts), func(a, b string) int {
		return cmp.Or(cmp.Compare(byPorts[a][0].order, byPorts[b][0].order), cmp.Compare(a, b))
	}) {
		r := rule{ports: byPorts[key][0].ports}
		for _, a := range byPorts[key] {
			r.entries = append(r.entries, a.entry)
		}
		rules = append(rules, r)
	}
	return rules
}

// blockOf is the allowance of a network, without ports.
func blockOf(network netip.Prefix) allowance {
	a := allowance{order: fmt.Sprintf("2 %x/%03d", network.Addr().As16(), network.Bits())}
	a.peer.IPBlock = &networkingv1.IPBlock{CIDR: network.String()}
	return a
}

// allow gives an allowance its ports, and says what is to be known of it.
func (g *generator) allow(a allowance, ports map[port]*evidence, destination *unit) allowance {
	seen := newEvidence()
	for _, at := range slices.SortedFunc(maps.Keys(ports), comparePorts) {
		seen.add(ports[at])
		entry := numbered(at)
		if destination != nil {
			entry = destination.port(at)
		}
		a.ports = append(a.ports, entry)
	}
	var says []string
	for _, name := range slices.Sorted(maps.Keys(seen.nodes)) {
		says = append(says, "node "+name)
	}
	if a.peer.IPBlock != nil {
		for _, name := range slices.Sorted(maps.Keys(seen.services)) {
			says = append(says, "Service "+name)
		}
		if addrs := ports[mostAddresses(ports)].addresses; len(seen.nodes) == 0 && addrs > 1 {
			says = append(says, fmt.Sprintf("%d addresses were seen", addrs))
		}
	}
	if seen.connections < uint64(max(g.options.Rare, 0)) {
		says = append(says, fmt.Sprintf("rare: %s seen", counted(int(seen.connections), "connection")))
	}
	a.comment = strings.Join(says, "; ")
	return a
}

// mostAddresses is the port at which most addresses were seen, the first of several.
func mostAddresses(ports map[port]*evidence) port {
	return slices.MinFunc(slices.Collect(maps.Keys(ports)), func(a, b port) int {
		return cmp.Or(cmp.Compare(ports[b].addresses, ports[a].addresses), comparePorts(a, b))
	})
}

// networks groups the addresses of each port.
func (g *generator) networks(outside map[port]map[netip.Addr]*evidence) map[netip.Prefix]map[port]*evidence {
	all := map[netip.Prefix]map[port]*evidence{}
	if len(outside) == 0 {
		return all
	}
	taken := g.inCluster().OverlapsPrefix
	for at, seen := range outside {
		addrs := slices.SortedFunc(maps.Keys(seen), netip.Addr.Compare)
		six := slices.IndexFunc(addrs, netip.Addr.Is6) // which come behind the others
		if six < 0 {
			six = len(addrs)
		}
		for _, network := range append(group(addrs[:six], g.options.ShortestIPv4, taken), group(addrs[six:], g.options.ShortestIPv6, taken)...) {
			for _, addr := range addrs {
				if network.Contains(addr) {
					note(all, network, at, seen[addr])
					all[network][at].addresses++
				}
			}
		}
	}
	return all
}

func comparePorts(a, b port) int {
	return cmp.Or(cmp.Compare(a.protocol.String(), b.protocol.String()), cmp.Compare(a.number, b.number))
}

// portsText is the same for the same ports.
func portsText(ports []networkingv1.NetworkPolicyPort) string {
	texts := make([]string, len(ports))
	for i, p := range ports {
		texts[i] = fmt.Sprintf("%s %d %s", *p.Protocol, p.Port.Type, p.Port)
	}
	return strings.Join(texts, ",")
}

// namespaceSelector selects a namespace by the label that the API server gives it.
func namespaceSelector(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: name}}
}

// numbered is a port by its number.
func numbered(p port) networkingv1.NetworkPolicyPort {
	protocol, number := apiProtocol(p.protocol), intstr.FromInt32(int32(p.number))
	return networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: &number}
}

// port is a port of the unit's pods: by its name, if all of them give that to it and to no other.
func (u *unit) port(p port) networkingv1.NetworkPolicyPort {
	out := numbered(p)
	var names []string
	known := false
	for _, pod := range u.pods {
		if len(pod.Spec.Containers) == 0 {
			continue // it is gone, and flows do not tell of its containers
		}
		of := namesOf(pod, p)
		if !known {
			names, known = of, true
		}
		names = slices.DeleteFunc(names, func(name string) bool { return !slices.Contains(of, name) })
	}
	if len(names) > 0 {
		name := intstr.FromString(names[0])
		out.Port = &name
	}
	return out
}

// namesOf are the names that a pod's containers give to a port and to no other, in order.
func namesOf(pod *corev1.Pod, p port) (names []string) {
	others := map[string]bool{}
	for _, c := range containerPorts(pod) {
		switch {
		case c.Name == "" || protocolOrTCP(c.Protocol) != apiProtocol(p.protocol):
		case c.ContainerPort == int32(p.number):
			names = append(names, c.Name)
		default:
			others[c.Name] = true
		}
	}
	names = slices.DeleteFunc(names, func(name string) bool { return others[name] })
	slices.Sort(names)
	return slices.Compact(names)
}

// containerPorts are the ports of a pod's containers, init containers and sidecars.
func containerPorts(pod *corev1.Pod) (ports []corev1.ContainerPort) {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		ports = append(ports, c.Ports...)
	}
	return ports
}

func protocolOrTCP(p corev1.Protocol) corev1.Protocol { return cmp.Or(p, corev1.ProtocolTCP) }
