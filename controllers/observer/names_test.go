package observer_test

import (
	"net/netip"
	"testing"

	"github.com/podfence/podfence/controllers/observer"
	"github.com/podfence/podfence/policy"
)

// held are the addresses of pods and nodes.
type held map[string]string

func (h held) HolderOf(addr netip.Addr) (*policy.Pod, string) {
	if addr == netip.MustParseAddr("10.244.1.1") && h["10.244.1.1"] == "pod" {
		return &policy.Pod{Key: policy.Key{Namespace: "shop", Name: "odd"}}, ""
	}
	return nil, h[addr.String()]
}

// TestGateways: what comes from the gateway of a node's pods, as the probes of its kubelet, comes from the node,
// where podfence connects the pods. A pod that has such an address is the pod.
func TestGateways(t *testing.T) {
	gateways := func(addr netip.Addr) string {
		return map[string]string{"10.244.1.1": "node-1", "fd00::1": "node-1"}[addr.String()]
	}
	for _, test := range []struct {
		name, addr string
		names      observer.ModelNames
		node, pod  string
	}{
		{"gateway", "10.244.1.1", observer.ModelNames{Holders: held{}, GatewayAt: gateways}, "node-1", ""},
		{"gateway, IPv6", "fd00::1", observer.ModelNames{Holders: held{}, GatewayAt: gateways}, "node-1", ""},
		{"node", "192.168.0.2", observer.ModelNames{Holders: held{"192.168.0.2": "node-2"}, GatewayAt: gateways}, "node-2", ""},
		{"nobody", "192.0.2.1", observer.ModelNames{Holders: held{}, GatewayAt: gateways}, "", ""},
		{"a pod", "10.244.1.1", observer.ModelNames{Holders: held{"10.244.1.1": "pod"}, GatewayAt: gateways}, "", "odd"},
		{"another plugin", "10.244.1.1", observer.ModelNames{Holders: held{}}, "", ""},
	} {
		if e := test.names.Endpoint(netip.MustParseAddr(test.addr), 80); e.Node != test.node || e.Pod != test.pod {
			t.Errorf("%s: %+v", test.name, e)
		}
	}
}
