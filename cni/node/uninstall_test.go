package node_test

import (
	"crypto/sha256"
	"net"
	"slices"
	"testing"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/cni/plugin"
)

// TestDisconnectPods: pods' links go, in the bridge or not yet; links that only have their
// names stay.
func TestDisconnectPods(t *testing.T) {
	p := newPeer(t, 1, "192.168.1.1")
	p.open(node.Options{})
	p.ip("link add podfence0 type bridge")
	var want []string
	for i, container := range []string{"a", "b", "c"} {
		name, mac := plugin.LinkName(container, "eth0"), "02:00:00:00:00:01"
		if i < 2 {
			sum := sha256.Sum256([]byte("link " + name)) // as the plugin derives it
			sum[0] = sum[0]&^0x01 | 0x02
			mac = net.HardwareAddr(sum[:6]).String()
			want = append(want, name)
		}
		p.ip("link add "+name+" address "+mac+" type veth peer name eth"+container, "link set eth"+container+" up")
	}
	p.ip("link set " + want[0] + " master podfence0")
	connected, err := p.net.ConnectedPods()
	slices.Sort(connected)
	slices.Sort(want)
	if err != nil || !slices.Equal(connected, want) {
		t.Errorf("connected are %v, %v; want %v", connected, err, want)
	}
	if count, err := p.net.DisconnectPods(); count != len(want) || err != nil {
		t.Errorf("disconnected %d, %v", count, err)
	}
	for _, name := range want {
		if out, err := p.try("link show " + name); err == nil {
			t.Errorf("%s is there yet: %s", name, out)
		}
	}
	p.ip("link show " + plugin.LinkName("c", "eth0"))
	if count, err := p.net.DisconnectPods(); count != 0 || err != nil {
		t.Errorf("again: disconnected %d, %v", count, err)
	}
}
