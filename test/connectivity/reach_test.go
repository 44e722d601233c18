package connectivity_test

import (
	"testing"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/test/lab"
)

func TestEveryoneReachesEveryoneWithoutNAT(t *testing.T) {
	for _, s := range []settings{
		{nodes: 2}, {nodes: 2, mode: node.VXLAN}, {nodes: 3}, {nodes: 3, mode: node.VXLAN},
	} {
		t.Run(s.String(), func(t *testing.T) {
			c := newCluster(t, s)
			pods := c.pod("hall", 0, "a-1", "a-2")
			var hosts []*lab.Host
			for i := range c.nodes {
				if i > 0 {
					pods = append(pods, c.pod("hall", i, "b-"+c.nodes[i].Name)...)
				}
				hosts = append(hosts, &c.nodes[i].Host)
			}
			for _, p := range pods {
				hosts = append(hosts, p.Host)
			}
			c.mesh(hosts...)
		})
	}
}
