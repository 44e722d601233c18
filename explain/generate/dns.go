package generate

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podfence/podfence/policy"
)

// Where clusters have their DNS: the Service, the label of its pods, and the port.
const (
	dnsService = "kube-dns"
	dnsPort    = 53
)

var (
	dnsLabels = map[string]string{"k8s-app": "kube-dns"}
	// nodeLocalDNS is where NodeLocal DNSCache answers on each node.
	nodeLocalDNS = netip.MustParseAddr("169.254.20.10")
	// dnsProtocols are those by which DNS is asked.
	dnsProtocols = []policy.Protocol{policy.UDP, policy.TCP}
)

// dns is the cluster's DNS. It has its place in most clusters if the objects do not have it.
type dns struct {
	labels map[string]string
	ports  []port
	units  []*unit
	// nodeLocal: somebody has asked NodeLocal DNSCache.
	nodeLocal bool
}

// findDNS finds the pods behind the Service kube-dns of namespace kube-system, and their ports.
func (g *generator) findDNS() dns {
	d := dns{labels: dnsLabels}
	var service *corev1.Service
	for _, s := range g.cluster.Services {
		if s.Namespace == metav1.NamespaceSystem && s.Name == dnsService && len(s.Spec.Selector) > 0 {
			service, d.labels = s, s.Spec.Selector
		}
	}
	selector := labels.SelectorFromSet(d.labels)
	var pods []*corev1.Pod
	for _, u := range g.units {
		if u.namespace != metav1.NamespaceSystem {
			continue
		}
		for _, pod := range u.pods {
			if !selector.Matches(labels.Set(pod.Labels)) {
				continue
			}
			pods = append(pods, pod)
			if !slices.Contains(d.units, u) {
				d.units = append(d.units, u)
			}
		}
	}
	for _, p := range dnsProtocols {
		d.ports = append(d.ports, port{p, targetOf(service, p, pods)})
	}
	for c := range g.connections {
		d.nodeLocal = d.nodeLocal || d.isNodeLocal(c.destination, port{c.protocol, c.port})
	}
	return d
}

// targetOf is the port of the pods that a Service's port 53 leads to.
func targetOf(service *corev1.Service, protocol policy.Protocol, pods []*corev1.Pod) uint16 {
	if service == nil {
		return dnsPort
	}
	for _, p := range service.Spec.Ports {
		if p.Port != dnsPort || p.Protocol != apiProtocol(protocol) {
			continue
		}
		if p.TargetPort.Type == intstr.Int && p.TargetPort.IntVal != 0 {
			return uint16(p.TargetPort.IntVal)
		}
		for _, pod := range pods {
			for _, c := range containerPorts(pod) {
				if c.Name == p.TargetPort.StrVal && protocolOrTCP(c.Protocol) == p.Protocol {
					return uint16(c.ContainerPort)
				}
			}
		}
	}
	return dnsPort
}

// has reports whether a port of a unit is the cluster's DNS.
func (d *dns) has(u *unit, at port) bool {
	return u != nil && slices.Contains(d.units, u) && slices.Contains(d.ports, at)
}

// isNodeLocal reports whether NodeLocal DNSCache was asked.
func (d *dns) isNodeLocal(to end, at port) bool {
	return to.addr == nodeLocalDNS && at.number == dnsPort && slices.Contains(dnsProtocols, at.protocol)
}

// egress are the rules by which pods of a namespace ask the DNS.
func (d *dns) egress(namespace string) (rules []rule) {
	peer := networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: d.labels}}
	if namespace != metav1.NamespaceSystem {
		peer.NamespaceSelector = namespaceSelector(metav1.NamespaceSystem)
	}
	rules = append(rules, rule{entries: []entry{{peer: peer}}, ports: d.apiPorts(), comment: "DNS"})
	if d.nodeLocal {
		block := networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: netip.PrefixFrom(nodeLocalDNS, nodeLocalDNS.BitLen()).String()}}
		var ports []networkingv1.NetworkPolicyPort
		for _, p := range dnsProtocols {
			ports = append(ports, numbered(port{p, dnsPort}))
		}
		rules = append(rules, rule{entries: []entry{{peer: block}}, ports: ports, comment: "NodeLocal DNSCache"})
	}
	return rules
}

// ingress is the rule by which the DNS's own pods are asked by all others: each of their policies lets them ask.
func (d *dns) ingress() rule {
	everyone := networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{}}
	return rule{entries: []entry{{peer: everyone}}, ports: d.apiPorts(), comment: "all pods may ask the DNS"}
}

// apiPorts are the ports as rules have them: by name if all of the DNS's pods give them the same.
func (d *dns) apiPorts() (ports []networkingv1.NetworkPolicyPort) {
	for _, p := range d.ports {
		entry := numbered(p)
		for i, u := range d.units {
			named := u.port(p)
			if i == 0 {
				entry = named
			} else if *named.Port != *entry.Port {
				entry = numbered(p)
				break
			}
		}
		ports = append(ports, entry)
	}
	return ports
}
