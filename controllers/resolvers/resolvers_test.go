package resolvers_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/podfence/podfence/controllers/resolvers"
)

func service(clusterIPs []string, ports ...corev1.ServicePort) *corev1.Service {
	s := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIPs: clusterIPs, Ports: ports}}
	if len(clusterIPs) > 0 {
		s.Spec.ClusterIP = clusterIPs[0]
	}
	return s
}

func port(name string, protocol corev1.Protocol, number int32) corev1.ServicePort {
	return corev1.ServicePort{Name: name, Protocol: protocol, Port: number}
}

func target(name string, protocol corev1.Protocol, number int32) discoveryv1.EndpointPort {
	return discoveryv1.EndpointPort{Name: new(name), Protocol: new(protocol), Port: new(number)}
}

// endpoint is one with these conditions: ready, serving and terminating, each t, f, or - for what is not said.
func endpoint(conditions string, addresses ...string) discoveryv1.Endpoint {
	is := func(c byte) *bool {
		if c == '-' {
			return nil
		}
		return new(c == 't')
	}
	return discoveryv1.Endpoint{Addresses: addresses, Conditions: discoveryv1.EndpointConditions{Ready: is(conditions[0]), Serving: is(conditions[1]), Terminating: is(conditions[2])}}
}

// TestOf: which resolvers Services are, as they are found in clusters and as they can be.
func TestOf(t *testing.T) {
	coreDNS := []corev1.ServicePort{port("dns", "UDP", 53), port("dns-tcp", "TCP", 53), port("metrics", "TCP", 9153)}
	targets := []discoveryv1.EndpointPort{target("dns-tcp", "TCP", 53), target("dns", "UDP", 53), target("metrics", "TCP", 9153)}
	for _, c := range []struct {
		name    string
		service *corev1.Service
		slices  []discoveryv1.EndpointSlice
		want    []string
	}{
		{"kube-dns, of both families", service([]string{"10.96.0.10", "fd00:96::a"}, coreDNS...), []discoveryv1.EndpointSlice{
			{AddressType: discoveryv1.AddressTypeIPv6, Ports: targets, Endpoints: []discoveryv1.Endpoint{endpoint("ttf", "fd00:244::2")}},
			{AddressType: discoveryv1.AddressTypeIPv4, Ports: targets, Endpoints: []discoveryv1.Endpoint{endpoint("ttf", "10.244.1.2"), endpoint("ttf", "10.244.0.2")}},
		}, []string{"10.96.0.10:53", "[fd00:96::a]:53", "10.244.0.2:53", "10.244.1.2:53", "[fd00:244::2]:53"}},
		{"OpenShift's dns-default, whose pods listen elsewhere", service([]string{"172.30.0.10"}, port("dns", "UDP", 53), port("dns-tcp", "TCP", 53), port("metrics", "TCP", 9154)),
			[]discoveryv1.EndpointSlice{{Ports: []discoveryv1.EndpointPort{target("dns", "UDP", 5353), target("dns-tcp", "TCP", 5353), target("metrics", "TCP", 9154)}, Endpoints: []discoveryv1.Endpoint{endpoint("ttf", "10.128.0.5")}}},
			[]string{"172.30.0.10:53", "10.128.0.5:5353"}},
		{"endpoints that get connections, and others", service([]string{"10.96.0.10"}, coreDNS...), []discoveryv1.EndpointSlice{{Ports: targets[:2], Endpoints: []discoveryv1.Endpoint{
			endpoint("ttf", "10.244.0.1"), endpoint("---", "10.244.0.2"), endpoint("ftt", "10.244.0.3"),
			endpoint("fff", "10.244.0.4"), endpoint("fft", "10.244.0.5"), endpoint("ftf", "10.244.0.6"), endpoint("f-t", "10.244.0.7"), endpoint("f--", "10.244.0.8"),
		}}}, []string{"10.96.0.10:53", "10.244.0.1:53", "10.244.0.2:53", "10.244.0.3:53"}},
		{"headless", service([]string{corev1.ClusterIPNone}, coreDNS...), []discoveryv1.EndpointSlice{{Ports: targets, Endpoints: []discoveryv1.Endpoint{endpoint("ttf", "10.244.0.1")}}},
			[]string{"10.244.0.1:53"}},
		{"one port without a name, by which the slice has none either", service([]string{"10.96.0.10"}, port("", "UDP", 53)), []discoveryv1.EndpointSlice{
			{Ports: []discoveryv1.EndpointPort{{Protocol: new(corev1.ProtocolUDP), Port: new(int32(1053))}}, Endpoints: []discoveryv1.Endpoint{endpoint("ttf", "10.244.0.1")}},
		}, []string{"10.96.0.10:53", "10.244.0.1:1053"}},
		{"TCP, which need not be said", service([]string{"10.96.0.10"}, port("a", "", 53)), []discoveryv1.EndpointSlice{
			{Ports: []discoveryv1.EndpointPort{{Name: new("a"), Port: new(int32(1053))}}, Endpoints: []discoveryv1.Endpoint{endpoint("ttf", "10.244.0.1")}},
		}, []string{"10.96.0.10:53", "10.244.0.1:1053"}},
		{"other ports by their names, and names of the other protocol", service([]string{"10.96.0.10"}, port("dns", "UDP", 5353), port("dns-tcp", "TCP", 5354), port("dns", "TCP", 853), port("dns-tcp", "UDP", 8853)), nil,
			[]string{"10.96.0.10:5353", "10.96.0.10:5354"}},
		{"a slice whose ports are others", service([]string{"10.96.0.10"}, coreDNS...), []discoveryv1.EndpointSlice{
			{Ports: []discoveryv1.EndpointPort{target("metrics", "TCP", 9153), target("dns", "TCP", 54), target("", "UDP", 55), {Name: new("dns"), Protocol: new(corev1.ProtocolUDP)}}, Endpoints: []discoveryv1.Endpoint{endpoint("ttf", "10.244.0.1")}},
		}, []string{"10.96.0.10:53"}},
		{"an endpoint in two slices, as while one moves", service([]string{"10.96.0.10"}, coreDNS...), []discoveryv1.EndpointSlice{
			{Ports: targets, Endpoints: []discoveryv1.Endpoint{endpoint("ttf", "10.244.0.1")}}, {Ports: targets, Endpoints: []discoveryv1.Endpoint{endpoint("ftt", "10.244.0.1")}},
		}, []string{"10.96.0.10:53", "10.244.0.1:53"}},
		{"names for addresses, and a mapped one", service([]string{"::ffff:10.96.0.10"}, coreDNS...), []discoveryv1.EndpointSlice{
			{AddressType: discoveryv1.AddressTypeFQDN, Ports: targets, Endpoints: []discoveryv1.Endpoint{endpoint("ttf", "dns.example.com")}},
		}, []string{"10.96.0.10:53"}},
		{"no Service, whose slices are still there", nil, []discoveryv1.EndpointSlice{{Ports: targets, Endpoints: []discoveryv1.Endpoint{endpoint("ttf", "10.244.0.1")}}}, nil},
		{"a Service of another kind", service([]string{"10.96.0.10"}, port("http", "TCP", 80), port("sctp", "SCTP", 53)), nil, nil},
	} {
		var want []netip.AddrPort
		for _, text := range c.want {
			want = append(want, netip.MustParseAddrPort(text))
		}
		if diff := cmp.Diff(want, resolvers.Of(c.service, c.slices), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}
