package explain

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// clusterIPs are the addresses that a Service has within the cluster.
func clusterIPs(service *corev1.Service) []netip.Addr {
	return addrsIn(append([]string{service.Spec.ClusterIP}, service.Spec.ClusterIPs...))
}

// outerIPs are the addresses that a Service has besides: its externalIPs, and those of its load balancer. What is
// sent to these is translated on the nodes as well, but for load balancers that ask to get it (ipMode: Proxy).
func outerIPs(service *corev1.Service) []netip.Addr {
	texts := slices.Clone(service.Spec.ExternalIPs)
	for _, at := range service.Status.LoadBalancer.Ingress {
		if at.IPMode == nil || *at.IPMode == corev1.LoadBalancerIPModeVIP {
			texts = append(texts, at.IP)
		}
	}
	return addrsIn(texts)
}

// addrsIn are the addresses among texts, each once.
func addrsIn(texts []string) (addrs []netip.Addr) {
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil && !slices.Contains(addrs, addr.Unmap()) {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}

// ServiceAt is the Service that has an address which is translated on the nodes; nil if none has it.
func (x *Explainer) ServiceAt(addr netip.Addr) *corev1.Service { return x.serviceAt[addr] }

// serviceAddress says that an address is a Service's.
func serviceAddress(addr netip.Addr, service *corev1.Service) Note {
	return Note{"ServiceAddress", fmt.Sprintf(
		"%[1]s is the address of a Service, %[2]s/%[3]s. It is translated before policies are asked: ask about the Service instead (svc/%[2]s/%[3]s:PORT).", addr, service.Namespace, service.Name)}
}

// nodePorts say that a port of a node leads to a Service: it is a nodePort or, of a Service with an address of
// the node among its own, the Service's port.
func (x *Explainer) nodePorts(e end, port Port) (notes []Note) {
	if e.Kind != KindNode && e.host == nil || port.Number == 0 {
		return nil
	}
	for _, service := range x.cluster.Services {
		addrs := slices.DeleteFunc(slices.Clone(e.addrs), func(addr netip.Addr) bool { return !x.hasFamily(service, addr) })
		if len(addrs) == 0 {
			continue
		}
		outer := slices.ContainsFunc(outerIPs(service), func(addr netip.Addr) bool { return slices.Contains(addrs, addr) })
		for _, of := range service.Spec.Ports {
			what := ""
			switch {
			case protocolOf(of.Protocol) != port.Protocol:
				continue
			case of.NodePort == int32(port.Number):
				what = "the nodePort"
			case outer && of.Port == int32(port.Number):
				what = "the port"
			default:
				continue
			}
			notes = append(notes, Note{"ServiceAddress", fmt.Sprintf(
				"%[1]s of node %[2]s is %[3]s of Service %[4]s/%[5]s: the node translates it to a port of the pods behind it, and their policies are asked about that. Ask about the Service as well (svc/%[4]s/%[5]s:%[6]s).",
				Port{Protocol: port.Protocol, Number: port.Number}.full(), e.Node, what, service.Namespace, service.Name, Port{Protocol: port.Protocol, Number: uint16(of.Port)})})
		}
	}
	return notes
}
