package policy_test

import (
	"net/netip"
	"testing"

	"github.com/podfence/podfence/policy"
)

// TestGatewayAt: the first address of a node's pod range is its pods' gateway, of each range, while the node has it.
func TestGatewayAt(t *testing.T) {
	m := policy.NewModel("node-1")
	expect := func(when string, want map[string]string) {
		t.Helper()
		for _, addr := range []string{"10.244.1.1", "fd00:1::1", "10.244.2.1", "10.244.3.1", "10.244.1.2", "10.244.1.0"} {
			if have := m.GatewayAt(netip.MustParseAddr(addr)); have != want[addr] {
				t.Errorf("%s: %s is the gateway of %q, want %q", when, addr, have, want[addr])
			}
		}
	}
	node := func(name string, cidrs ...string) policy.Change {
		n := policy.Node{Name: name}
		for _, cidr := range cidrs {
			n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix(cidr))
		}
		return policy.SetNode(n)
	}
	m.Apply(node("node-1", "10.244.1.0/24", "fd00:1::/64"), node("node-2", "10.244.2.0/24"))
	expect("two nodes", map[string]string{"10.244.1.1": "node-1", "fd00:1::1": "node-1", "10.244.2.1": "node-2"})
	m.Apply(node("node-3", "10.244.3.0/24"))
	expect("one more", map[string]string{"10.244.1.1": "node-1", "fd00:1::1": "node-1", "10.244.2.1": "node-2", "10.244.3.1": "node-3"})
	m.Apply(policy.DeleteNode("node-2"))
	expect("one less", map[string]string{"10.244.1.1": "node-1", "fd00:1::1": "node-1", "10.244.3.1": "node-3"})
}
