package agent

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/podfence/podfence/controllers/hubble"
	"github.com/podfence/podfence/policy"
)

// TestHubblePeers: the agents of all nodes, each at its node's first address, once that is known.
func TestHubblePeers(t *testing.T) {
	have := hubblePeers([]policy.Node{
		{Name: "node-1", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}},
		{Name: "node-2"},
		{Name: "node-3", Addrs: []netip.Addr{netip.MustParseAddr("fd00::3")}},
	}, "4244")
	if want := []hubble.Peer{{Name: "node-1", Address: "10.0.0.1:4244"}, {Name: "node-3", Address: "[fd00::3]:4244"}}; !slices.Equal(have, want) {
		t.Errorf("%v, want %v", have, want)
	}
}
