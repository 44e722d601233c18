package explain

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podfence/podfence/policy"
)

// way is a way that packets take: to an end, and with a port perhaps by a Service.
type way struct {
	to   end
	port Port // a number; its zero value: no port was asked about
	by   *Translation
}

// ways are the ways to a target, and what has to be said of those that lead nowhere.
func (x *Explainer) ways(t Target, port Port) (ways []way, notes []Note, err error) {
	if t.Kind == KindService {
		return x.serviceWays(t, port)
	}
	ends, notes, err := x.ends(t)
	for _, e := range ends {
		to := way{to: e, port: port}
		if port.Name != "" {
			number, problem := portOf(e, port)
			if problem != nil {
				notes = append(notes, *problem)
				continue
			}
			to.port.Number = number
		}
		ways = append(ways, to)
	}
	return ways, notes, err
}

// portOf is the number that the name of a port has on an end.
func portOf(e end, port Port) (uint16, *Note) {
	for _, declared := range declaredPorts(e.pod) {
		if declared.Name == port.Name && declared.Protocol == port.Protocol {
			return declared.Number, nil
		}
	}
	return 0, &Note{"NoSuchPort", fmt.Sprintf("%s has no container port named %q of protocol %s%s.", e.End, port.Name, port.Protocol, declaredText(e.pod))}
}

// declaredPorts are the named ports of a pod's containers.
func declaredPorts(pod *corev1.Pod) []policy.ContainerPort {
	if pod == nil {
		return nil
	}
	seen, _ := policy.PodOf(pod)
	if seen == nil {
		return nil
	}
	return seen.Ports
}

// serviceWays are the ways to the endpoints of a Service: those that kube-proxy sends to, by each of the
// Service's ports that is asked about.
func (x *Explainer) serviceWays(t Target, asked Port) (ways []way, notes []Note, err error) {
	key := policy.Key{Namespace: t.Namespace, Name: t.Name}
	service := x.services[key]
	if service == nil {
		return nil, nil, unknown(t.Kind, key.String())
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return nil, []Note{{"ExternalName", fmt.Sprintf("Service %s is an alias of the name %s: ask about an address that this has.", key, service.Spec.ExternalName)}}, nil
	}
	ports, err := portsAsked(service, asked)
	if err != nil {
		return nil, nil, err
	}
	for _, port := range ports {
		to, said := x.endpoints(service, port)
		ways, notes = append(ways, to...), append(notes, said...)
	}
	if len(ways) == 0 {
		notes = append(notes, Note{"NoEndpoints", fmt.Sprintf("Service %s has no endpoint that is ready: kube-proxy refuses connections to it, whatever policies say.", key)})
	}
	return ways, notes, nil
}

// portsAsked are the ports of a Service that are asked about; all of them, if none is named.
func portsAsked(service *corev1.Service, asked Port) (ports []corev1.ServicePort, err error) {
	for _, port := range service.Spec.Ports {
		if asked == (Port{}) || protocolOf(port.Protocol) == asked.Protocol &&
			(asked.Name != "" && port.Name == asked.Name || asked.Number != 0 && port.Port == int32(asked.Number)) {
			ports = append(ports, port)
		}
	}
	if len(ports) == 0 {
		return nil, fmt.Errorf("no port %s of Service %s/%s; it has %s", asked, service.Namespace, service.Name, servicePortsText(service))
	}
	return ports, nil
}

// endpoints are the ways by one port of a Service. Where there are no EndpointSlices, as in files, the
// Service's selector says which pods are behind it.
func (x *Explainer) endpoints(service *corev1.Service, port corev1.ServicePort) (ways []way, notes []Note) {
	key := policy.Key{Namespace: service.Namespace, Name: service.Name}
	by := Translation{Namespace: service.Namespace, Name: service.Name, Port: uint16(port.Port), PortName: port.Name}
	add := func(e end, target int32) {
		to := by
		to.TargetPort = uint16(target)
		ways = append(ways, way{to: e, port: Port{Protocol: protocolOf(port.Protocol), Number: uint16(target)}, by: &to})
	}
	if of, has := x.slices[key]; has || x.cluster.Running {
		for _, at := range readyEndpoints(of, port) {
			e := x.addressEnd(at.Addr())
			if !slices.ContainsFunc(ways, func(w way) bool { return sameEnd(w.to, e) }) {
				add(e, int32(at.Port()))
			}
		}
		return ways, nil
	}
	if len(service.Spec.Selector) == 0 {
		return nil, nil
	}
	for _, pod := range x.cluster.Pods {
		if pod.Namespace != service.Namespace || !labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			continue
		}
		e, note := x.podEnd(pod)
		if note != nil {
			notes = append(notes, *note)
			continue
		}
		target, problem := targetPort(e, port)
		if problem != nil {
			notes = append(notes, *problem)
			continue
		}
		add(e, int32(target))
	}
	return ways, notes
}

// readyEndpoints are the addresses and ports that a port of a Service stands for.
func readyEndpoints(of []*discoveryv1.EndpointSlice, port corev1.ServicePort) (all []netip.AddrPort) {
	for _, slice := range of {
		for _, p := range slice.Ports {
			if p.Port == nil || p.Name != nil && *p.Name != port.Name || p.Name == nil && port.Name != "" {
				continue
			}
			for _, endpoint := range slice.Endpoints {
				if endpoint.Conditions.Ready != nil && !*endpoint.Conditions.Ready {
					continue
				}
				for _, text := range endpoint.Addresses {
					if addr, err := netip.ParseAddr(text); err == nil {
						all = append(all, netip.AddrPortFrom(addr.Unmap(), uint16(*p.Port)))
					}
				}
			}
		}
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return slices.Compact(all)
}

// targetPort is the port of a pod that a port of a Service stands for.
func targetPort(e end, port corev1.ServicePort) (uint16, *Note) {
	switch {
	case port.TargetPort.Type == intstr.String:
		return portOf(e, Port{Name: port.TargetPort.StrVal, Protocol: protocolOf(port.Protocol)})
	case port.TargetPort.IntVal == 0:
		return uint16(port.Port), nil
	}
	return uint16(port.TargetPort.IntVal), nil
}

// sameEnd reports whether two ends are the same object, or address.
func sameEnd(a, b end) bool {
	if a.Kind == KindAddress || b.Kind == KindAddress {
		return a.Kind == b.Kind && a.Address == b.Address
	}
	return a.Kind == b.Kind && a.Namespace == b.Namespace && a.Name == b.Name
}

// protocolOf reads an API protocol; one that policies do not know is 0.
func protocolOf(p corev1.Protocol) policy.Protocol {
	switch p {
	case corev1.ProtocolTCP, "":
		return policy.TCP
	case corev1.ProtocolUDP:
		return policy.UDP
	case corev1.ProtocolSCTP:
		return policy.SCTP
	}
	return 0
}
