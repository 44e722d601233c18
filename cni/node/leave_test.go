package node_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/cni/node"
)

// TestLeave: while the bridge connects a pod, nothing is taken away; then all that is
// podfence's, and nothing of others.
func TestLeave(t *testing.T) {
	t.Parallel()
	for _, mode := range []node.Mode{node.VXLAN, node.HostGW} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			nodes := shared(t, 3, 1500)
			p := nodes[0]
			p.ip("link add other type bridge", "link set other up", "addr add 10.99.0.1/24 dev other",
				"route add 10.98.0.0/16 via 10.99.0.2", "rule add iif other lookup 28774 pref 3", "route add 10.97.0.0/16 dev other table 28774")
			others := func() string {
				var lines []string
				for _, line := range strings.Split(p.ip("-4 route show table all")+"\n"+p.ip("rule")+"\n"+p.ip("-6 rule")+"\n"+p.ip("-o link"), "\n") {
					if line = strings.TrimSpace(line); !strings.Contains(line, "podfence") && !strings.Contains(line, "proto 112") {
						lines = append(lines, line)
					}
				}
				slices.Sort(lines)
				return strings.Join(lines, "\n")
			}
			before := others()
			start(t, nodes, node.Options{Mode: mode})

			ports, tunnel, err := p.net.Connects()
			if err != nil || !slices.Equal(ports, []string{"pf0"}) || tunnel != (mode == node.VXLAN) {
				t.Errorf("it connects %v, by a tunnel %v: %v", ports, tunnel, err)
			}
			connected := p.routes()
			if changes, err := p.net.Leave(); err == nil || changes != 0 || !strings.Contains(err.Error(), "pf0") {
				t.Errorf("with a pod: %d changes, %v", changes, err)
			}
			if now := p.routes(); now != connected {
				t.Errorf("with a pod, routes became\n%s\nof\n%s", now, connected)
			}

			p.ip("link del pf0")
			if _, err := p.net.Leave(); err != nil {
				t.Fatal(err)
			}
			if left := p.ip("-o link") + p.routes(); strings.Contains(left, "podfence") || strings.Contains(left, "unreachable") || strings.Contains(left, "10.244.") {
				t.Errorf("there are left\n%s", left)
			}
			if after := others(); after != before {
				t.Errorf("others' were\n%s\nand are\n%s", before, after)
			}
			if changes, err := p.net.Leave(); changes != 0 || err != nil {
				t.Errorf("again: %d changes, %v", changes, err)
			}
			if ports, tunnel, err := p.net.Connects(); len(ports) > 0 || tunnel || err != nil {
				t.Errorf("it connects %v, by a tunnel %v: %v", ports, tunnel, err)
			}
		})
	}

	// A bridge that podfence has not made is none of its business, even by that name.
	p := newPeer(t, 9, "192.168.1.9")
	p.open(node.Options{})
	p.ip("link add podfence0 type bridge", "link add pf0 type veth peer name pf1", "link set pf0 master podfence0")
	if ports, _, err := p.net.Connects(); len(ports) > 0 || err != nil {
		t.Errorf("another's bridge connects %v, %v", ports, err)
	}
	if changes, err := p.net.Leave(); changes != 0 || err != nil {
		t.Errorf("another's bridge: %d changes, %v", changes, err)
	}
	p.ip("link show podfence0")
}
