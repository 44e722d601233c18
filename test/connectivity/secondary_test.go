package connectivity_test

import (
	"context"
	"net/netip"
	"testing"
)

// TestSecondInterface: by Multus, a pod has another interface of the same network. What
// answers at its address leaves by its own port, as the guard demands; policy is that of
// the pod, at either address; and it ends without the first.
func TestSecondInterface(t *testing.T) {
	c := newCluster(t, settings{nodes: 2, more: clients})
	two, client, stranger := c.pod("vault", 0, "vault-1")[0], c.pod("hall", 1, "client-1")[0], c.pod("hall", 0, "stranger-1")[0]
	c.say(c.pods...)
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	more, err := c.fences[0].AddInterface(ctx, two.Host, "net1", two.key, two.uid())
	c.must(err)
	// The client of another node reaches each of these, and a stranger none.
	judge := func(ips []netip.Addr) {
		t.Helper()
		for _, ip := range ips {
			at := netip.AddrPortFrom(ip, allowedPort)
			c.eventually("client", func() error {
				_, server, err := talk(client.Host, two.Host, netip.AddrPort{}, at)
				if err == nil && server != ip {
					t.Errorf("%s answers for %s", server, ip)
				}
				return err
			})
			if seen, _, err := talk(stranger.Host, two.Host, netip.AddrPort{}, at); err == nil {
				t.Errorf("a stranger, seen as %s, gets through to %s", seen, ip)
			}
		}
	}
	judge(two.IPs)
	judge(more)
	c.must(c.fences[0].DelInterface(ctx, two.Host, "net1", two.key, two.uid()))
	judge(two.IPs)
}
