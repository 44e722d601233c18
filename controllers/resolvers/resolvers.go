package resolvers

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// dnsPort is DNS' own port (RFC 1035 section 4.2).
const dnsPort = 53

// Of are the resolvers behind a Service, over UDP and TCP: its cluster IPs, and then its endpoints, each where it listens, as
// packets go there that are not translated by the node's rules (kube-proxy's, or others' before the pod's packet is sent).
// endpoints are the EndpointSlices that have its name in the label kubernetes.io/service-name, as for kube-proxy. Endpoints
// count that kube-proxy may send connections to: those that are ready, or still serve while they terminate. Each
// resolver is there once; the endpoints are in order. A nil Service has none, whatever the slices.
func Of(service *corev1.Service, endpoints []discoveryv1.EndpointSlice) []netip.AddrPort {
	if service == nil {
		return nil
	}
	var front, behind []netip.AddrPort
	ports := map[servicePort]bool{}
	for _, p := range service.Spec.Ports {
		if !isDNS(p) {
			continue
		}
		ports[servicePort{p.Name, protocolOf(p.Protocol)}] = true
		for _, text := range append([]string{service.Spec.ClusterIP}, service.Spec.ClusterIPs...) {
			front = with(front, text, p.Port)
		}
	}
	for _, s := range endpoints {
		for _, p := range s.Ports {
			if p.Port == nil || !ports[servicePort{valueOf(p.Name), protocolOf(valueOf(p.Protocol))}] {
				continue
			}
			for _, endpoint := range s.Endpoints {
				if !serves(endpoint.Conditions) {
					continue
				}
				for _, text := range endpoint.Addresses {
					behind = with(behind, text, *p.Port)
				}
			}
		}
	}
	slices.SortFunc(behind, netip.AddrPort.Compare)
	return distinct(front, behind)
}

// distinct are resolvers one after the other, each once.
func distinct(lists ...[]netip.AddrPort) (all []netip.AddrPort) {
	seen := map[netip.AddrPort]bool{}
	for _, list := range lists {
		for _, resolver := range list {
			if !seen[resolver] {
				seen[resolver] = true
				all = append(all, resolver)
			}
		}
	}
	return all
}

// servicePort is what an EndpointSlice's port has in common with its Service's.
type servicePort struct {
	name     string
	protocol corev1.Protocol
}

// isDNS reports whether a Service's port is for DNS: by its name, as that of kube-dns has them, or by its number.
func isDNS(p corev1.ServicePort) bool {
	switch protocolOf(p.Protocol) {
	case corev1.ProtocolUDP:
		return p.Name == "dns" || p.Port == dnsPort
	case corev1.ProtocolTCP:
		return p.Name == "dns-tcp" || p.Port == dnsPort
	}
	return false
}

// serves reports whether an endpoint gets connections: what is not known of it counts as the API says
// (EndpointConditions of discovery/v1).
func serves(c discoveryv1.EndpointConditions) bool {
	if c.Ready == nil || *c.Ready {
		return true
	}
	return valueOf(c.Serving) && valueOf(c.Terminating)
}

// with adds an address and port, if the address is one: a Service without a cluster IP has the text None, or nothing.
func with(all []netip.AddrPort, text string, port int32) []netip.AddrPort {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return all
	}
	return append(all, netip.AddrPortFrom(addr.Unmap(), uint16(port)))
}

// protocolOf is a protocol, which is TCP unless it is said.
func protocolOf(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

// valueOf is what a pointer points to, or the zero value.
func valueOf[T any](p *T) (value T) {
	if p != nil {
		value = *p
	}
	return value
}
