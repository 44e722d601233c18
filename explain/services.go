package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
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
		to.to.notes = slices.Concat(e.notes, x.nodePorts(e, to.port))
		ways = append(ways, to)
	}
	return ways, notes, err
}

// portOf is the number that the name of a port has on an end. To policies, pods on their node's network have no
// named ports; to whoever sends there, and to Services, they do.
func portOf(e end, port Port) (uint16, *Note) {
	pod := cmp.Or(e.pod, e.host)
	if pod != nil && pod.Spec.HostNetwork {
		pod = &corev1.Pod{Spec: corev1.PodSpec{InitContainers: pod.Spec.InitContainers, Containers: pod.Spec.Containers}}
	}
	for _, declared := range declaredPorts(pod) {
		if declared.Name == port.Name && declared.Protocol == port.Protocol {
			return declared.Number, nil
		}
	}
	return 0, &Note{"NoSuchPort", fmt.Sprintf("%s has no container port named %q of protocol %s%s.", e.End, port.Name, port.Protocol, declaredText(pod))}
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
// Service's ports that is asked about or, of a headless Service, those that its name has.
func (x *Explainer) serviceWays(t Target, asked Port) (ways []way, notes []Note, err error) {
	key := policy.Key{Namespace: t.Namespace, Name: t.Name}
	service := x.services[key]
	if service == nil {
		return nil, nil, unknown(t.Kind, key.String())
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return nil, []Note{{"ExternalName", fmt.Sprintf("Service %s is an alias of the name %s: ask about an address that this has.", key, service.Spec.ExternalName)}}, nil
	}
	if headless(service) && asked.Name == "" {
		ways, notes = x.headlessWays(service, asked)
	} else {
		ports, err := portsAsked(service, asked)
		if err != nil {
			return nil, nil, err
		}
		for _, port := range ports {
			to, said := x.waysBy(service, port)
			said = slices.DeleteFunc(said, func(n Note) bool { return slices.Contains(notes, n) }) // of another port
			ways, notes = append(ways, to...), append(notes, said...)
		}
	}
	if len(ways) == 0 {
		notes = append(notes, Note{"NoEndpoints", fmt.Sprintf("Service %s has no endpoint that is ready: %s, whatever policies say.", key, withoutEndpoints(service))})
	}
	return ways, notes, nil
}

// withoutEndpoints is what becomes of connections to a Service that has no endpoints.
func withoutEndpoints(service *corev1.Service) string {
	if headless(service) {
		return "its name has no address"
	}
	return "kube-proxy refuses connections to it"
}

// headless reports whether a Service has no address of its own. Its name has the addresses of its endpoints
// instead, so that nothing translates what is sent there.
func headless(service *corev1.Service) bool {
	return service.Spec.ClusterIP == corev1.ClusterIPNone
}

// headlessWays are the ways to the endpoints of a headless Service by a port that is no name, or by none. The
// port is that of the pods, whatever the Service's ports are. Whoever asks for one of these by name gets an SRV
// record, which has the target port.
func (x *Explainer) headlessWays(service *corev1.Service, asked Port) (ways []way, notes []Note) {
	all, notes := x.endpoints(service, nil)
	for _, e := range all {
		ways = append(ways, way{to: e.to, port: asked})
	}
	for _, port := range service.Spec.Ports {
		target := cmp.Or(port.TargetPort.String(), "0")
		if asked.Number == 0 || protocolOf(port.Protocol) != asked.Protocol || port.Port != int32(asked.Number) || target == "0" || target == fmt.Sprint(port.Port) {
			continue
		}
		said := fmt.Sprintf("Service %s/%s is headless (clusterIP: None), so that nothing translates its port %s to its targetPort %s: packets go to that port of the pods.",
			service.Namespace, service.Name, asked, target)
		if port.Name != "" {
			said += fmt.Sprintf(" For who looks up the port by an SRV record, ask svc/%s/%s:%s.", service.Namespace, service.Name, Port{Protocol: asked.Protocol, Name: port.Name})
		}
		notes = append(notes, Note{"HeadlessService", said})
	}
	return ways, notes
}

// portsAsked are the ports of a Service that are asked about; all of them, if none is named.
func portsAsked(service *corev1.Service, asked Port) (ports []corev1.ServicePort, err error) {
	for _, port := range service.Spec.Ports {
		if asked == (Port{}) || protocolOf(port.Protocol) == asked.Protocol &&
			(asked.Name != "" && port.Name == asked.Name || asked.Number != 0 && port.Port == int32(asked.Number)) {
			ports = append(ports, port)
		}
	}
	switch {
	case len(ports) == 0 && asked == (Port{}):
		return nil, fmt.Errorf("no port of Service %s/%s can be asked about, as it has none; only a headless one (clusterIP: None) may have none", service.Namespace, service.Name)
	case len(ports) == 0:
		return nil, fmt.Errorf("no port %s of Service %s/%s; it has %s", asked, service.Namespace, service.Name, servicePortsText(service))
	}
	return ports, nil
}

// waysBy are the ways by one port of a Service.
func (x *Explainer) waysBy(service *corev1.Service, port corev1.ServicePort) (ways []way, notes []Note) {
	all, notes := x.endpoints(service, &port)
	for _, e := range all {
		to := way{to: e.to, port: Port{Protocol: protocolOf(port.Protocol), Number: e.port}}
		if !headless(service) {
			to.by = &Translation{Namespace: service.Namespace, Name: service.Name, Port: uint16(port.Port), PortName: port.Name, TargetPort: e.port}
		}
		ways = append(ways, to)
	}
	return ways, notes
}

// endpoint is who is behind a Service, and the port there; 0: none was asked about.
type endpoint struct {
	to   end
	port uint16
}

// endpoints are those of one port of a Service or, if that is nil, those that it has whatever the port. Where
// there are no EndpointSlices, as in files, the Service's selector says which pods are behind it.
func (x *Explainer) endpoints(service *corev1.Service, port *corev1.ServicePort) (all []endpoint, notes []Note) {
	of, has := x.slices[policy.Key{Namespace: service.Namespace, Name: service.Name}]
	if !has && !x.cluster.Running {
		return x.selected(service, port)
	}
	for _, at := range readyEndpoints(of, port) {
		if !x.hasFamily(service, at.Addr()) {
			continue
		}
		e := x.addressEnd(at.Addr())
		known := slices.IndexFunc(all, func(known endpoint) bool { return sameEnd(known.to, e) && known.port == at.Port() })
		switch {
		case known < 0:
			all = append(all, endpoint{e, at.Port()})
		case !likeFamily(all[known].to.addrs, at.Addr()).IsValid():
			all[known].to.addrs = append(all[known].to.addrs, at.Addr())
		}
	}
	return all, nil
}

// selected are the endpoints of a Service by its selector.
func (x *Explainer) selected(service *corev1.Service, port *corev1.ServicePort) (all []endpoint, notes []Note) {
	for _, pod := range x.cluster.Pods {
		if !x.isBehind(service, pod) {
			continue
		}
		e, note := x.podEnd(pod)
		if note == nil {
			note = x.restrict(&e, service)
		}
		if note == nil && x.notReady(pod) && !service.Spec.PublishNotReadyAddresses {
			note = notReadyNote(pod)
		}
		target := uint16(0)
		if note == nil && port != nil {
			target, note = targetPort(e, *port)
		}
		if note != nil {
			notes = append(notes, *note)
			continue
		}
		all = append(all, endpoint{e, target})
	}
	return all, notes
}

// restrict leaves an end the addresses by which a Service reaches it, or says that there are none.
func (x *Explainer) restrict(e *end, service *corev1.Service) *Note {
	e.addrs = slices.DeleteFunc(slices.Clone(e.addrs), func(addr netip.Addr) bool { return !x.hasFamily(service, addr) })
	if len(e.addrs) == 0 {
		return &Note{"NoAddress", fmt.Sprintf("%s has no %s address, and Service %s/%s has no other family.",
			e.End, strings.Join(x.families(service), " or "), service.Namespace, service.Name)}
	}
	e.Address = e.addrs[0]
	return nil
}

// hasFamily reports whether a Service is of the family of an address.
func (x *Explainer) hasFamily(service *corev1.Service, addr netip.Addr) bool {
	of := x.families(service)
	return len(of) == 0 || slices.Contains(of, familyName(addr))
}

// families are IPv4, IPv6 or both: those of a Service. Nothing means those that its pods have, as in files where
// the API server has not chosen yet.
func (x *Explainer) families(service *corev1.Service) (of []string) {
	dual := service.Spec.IPFamilyPolicy != nil && *service.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack
	if dual && len(service.Spec.ClusterIPs) == 0 && !x.cluster.Running {
		return nil // what it names may be the first of two
	}
	for _, family := range service.Spec.IPFamilies {
		of = append(of, string(family))
	}
	if len(of) > 0 {
		return of
	}
	for _, addr := range clusterIPs(service) {
		of = append(of, familyName(addr))
	}
	return of
}

// readyEndpoints are the addresses and ports that a port of a Service stands for; without a port, all addresses.
func readyEndpoints(of []*discoveryv1.EndpointSlice, port *corev1.ServicePort) (all []netip.AddrPort) {
	for _, slice := range of {
		for _, number := range numbersIn(slice, port) {
			for _, endpoint := range slice.Endpoints {
				if endpoint.Conditions.Ready != nil && !*endpoint.Conditions.Ready {
					continue
				}
				for _, text := range endpoint.Addresses {
					if addr, err := netip.ParseAddr(text); err == nil {
						all = append(all, netip.AddrPortFrom(addr.Unmap(), number))
					}
				}
			}
		}
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return slices.Compact(all)
}

// numbersIn are the numbers that a port of a Service has in an EndpointSlice; 0 alone, without a port.
func numbersIn(slice *discoveryv1.EndpointSlice, port *corev1.ServicePort) (numbers []uint16) {
	if port == nil {
		return []uint16{0}
	}
	for _, p := range slice.Ports {
		if p.Port != nil && (p.Name != nil && *p.Name == port.Name || p.Name == nil && port.Name == "") {
			numbers = append(numbers, uint16(*p.Port))
		}
	}
	return numbers
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
