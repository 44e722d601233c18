package node_test

import (
	"testing"

	"github.com/podfence/podfence/cni/node"
)

// Where routers announce the nodes, an InternalIP is on the loopback link, whose
// MTU no link between nodes has.
func TestInternalIPOnLoopback(t *testing.T) {
	for _, test := range []struct {
		name   string
		routes []string
		mtu    int
	}{
		{"a default route", []string{"route add default dev up0", "route add 192.0.2.2 dev up1 src 192.0.2.1"}, 1400},
		{"no default route", []string{"route add 192.0.2.2 dev up1 src 192.0.2.1"}, 1500},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPeer(t, 1, "192.0.2.1")
			p.ip("addr add 192.0.2.1/32 dev lo", "link add up0 mtu 1400 type veth peer name far0 mtu 1400",
				"link add up1 type veth peer name far1", "link set up0 up", "link set up1 up")
			p.ip(test.routes...)
			p.open(node.Options{})
			p.reconcile()
			if mtu, err := p.net.MTU(); mtu != test.mtu || err != nil {
				t.Errorf("MTU %d, %v; not %d", mtu, err, test.mtu)
			}
		})
	}
}
