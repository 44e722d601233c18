package node_test

import (
	"strings"
	"testing"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/cni/plugin"
)

// TestRemove: with host-gw and with the tunnel, all that is podfence's goes, and nothing
// that is not.
func TestRemove(t *testing.T) {
	for _, mode := range []node.Mode{node.HostGW, node.VXLAN} {
		t.Run(mode.String(), func(t *testing.T) {
			nodes := shared(t, 2, 1500)
			start(t, nodes, node.Options{Mode: mode})
			p := nodes[0]
			others := []string{
				"link add other0 type bridge", "link set other0 up", "link add other1 type vxlan id 7 dstport 4789",
				"route add 203.0.113.0/24 dev other0", "route add 198.51.100.0/24 dev other0 table 77 proto 112",
				"rule add iif other0 lookup 77 priority 100",
			}
			p.ip(others...)
			before := p.ip("-4 route show table all dev other0") + p.ip("-4 rule show iif other0")

			pf := plugin.LinkName("container", "eth0")
			p.ip("link add " + pf + " type veth peer name other2") // by its name alone it is not podfence's
			if pods, err := p.net.ConnectedPods(); err != nil || len(pods) > 0 {
				t.Fatalf("connected are %v, %v", pods, err)
			}
			made, err := p.net.Remove()
			if err != nil || made == 0 {
				t.Fatalf("removed %d things: %v", made, err)
			}
			for _, leftover := range []string{"podfence0", "podfence-vxlan"} {
				if links := p.ip("-o link"); strings.Contains(links, leftover) {
					t.Errorf("%s is there yet:\n%s", leftover, links)
				}
			}
			for _, line := range strings.Split(p.routes(), "\n") {
				if strings.Contains(line, "112") && !strings.Contains(line, "other0") || strings.Contains(line, "podfence") || strings.Contains(line, "28774") {
					t.Errorf("left is: %s", line)
				}
			}
			if after := p.ip("-4 route show table all dev other0") + p.ip("-4 rule show iif other0"); after != before {
				t.Errorf("others' were\n%s\nand are\n%s", before, after)
			}
			p.ip("link show other1", "link show "+pf)
			if made, err := p.net.Remove(); made != 0 || err != nil {
				t.Errorf("again: removed %d things, %v", made, err)
			}
			// Nothing has gone that the network needs to be made anew.
			p.reconcile(all(nodes)...)
		})
	}
}

// TestRemoveSparesOthersLinks: links of podfence's names that it has not made stay.
func TestRemoveSparesOthersLinks(t *testing.T) {
	p := newPeer(t, 1, "192.168.1.1")
	p.open(node.Options{})
	p.ip("link add podfence0 type bridge", "link add podfence-vxlan type bridge")
	if made, err := p.net.Remove(); made != 0 || err != nil {
		t.Errorf("removed %d things, %v", made, err)
	}
	p.ip("link show podfence0", "link show podfence-vxlan")
}
