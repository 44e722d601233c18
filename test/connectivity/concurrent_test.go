package connectivity_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podfence/podfence/test/lab"
)

// connectAsKubelet is connect, and again from the beginning where the plugin says
// so: fifty pods are more than ten seconds' work for an emulated machine.
func (c *cluster) connectAsKubelet(p *pod) error {
	for deadline := time.Now().Add(2 * time.Minute); ; {
		err := c.connect(p)
		var said *types.Error
		if !errors.As(err, &said) || said.Code != types.ErrTryAgainLater || time.Now().After(deadline) {
			return err
		}
		c.t.Logf("%s: %v", p, err)
		if err := c.disconnect(c.fences[p.on], p); err != nil {
			return err
		}
	}
}

func TestManyPodsAtOnce(t *testing.T) {
	const many = 50
	c := newCluster(t, settings{nodes: 2})
	hall := append(c.pod("hall", 0, "hall-1"), c.pod("hall", 1, "hall-2")...)
	var names []string
	for i := range many {
		names = append(names, fmt.Sprintf("many-%d", i))
	}
	pods := c.add("hall", 0, names...)
	c.together(pods, c.connectAsKubelet)
	taken := map[netip.Addr]string{}
	var all []lab.Probe
	for i, p := range pods {
		if len(p.IPs) != 2 {
			t.Fatalf("%s has addresses %v", p, p.IPs)
		}
		for _, ip := range p.IPs {
			if other := taken[ip]; other != "" {
				t.Errorf("%s and %s both have %s", other, p, ip)
			}
			taken[ip] = p.Name
		}
		next := pods[(i+1)%many]
		all = append(all, udp(p.Host, next.Host, 1, true)...)
		for _, h := range hall {
			all = append(all, udp(p.Host, h.Host, 1, true)...)
			all = append(all, udp(h.Host, p.Host, 1, true)...)
		}
	}
	c.expect("between many pods", all)

	c.together(pods, func(p *pod) error { return c.disconnect(c.fences[0], p) })
	all = nil
	for _, p := range pods {
		gone := p.IPs
		p.Connected(nil)
		all = append(all, unowned(hall[0].Host, gone...)...)
	}
	c.expect("when they have gone", all)
	c.must(c.nodes[0].Do(func() error {
		ports := 0
		for _, name := range linkNames(t) {
			if len(name) > 2 && name[:2] == "pf" {
				ports++
			}
		}
		if ports != 1 {
			t.Errorf("%d pods are gone, %d ports are left, where one pod is", many, ports)
		}
		return nil
	}))
}
