package connectivity_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

func TestPodsOutliveTheirAgent(t *testing.T) {
	c := newCluster(t, settings{nodes: 2, more: denying})
	hall := append(c.pod("hall", 0, "hall-1"), c.pod("hall", 1, "hall-2")...)
	shop := c.pod("shop", 0, "shop-1", "shop-2")
	vault := c.pod("vault", 0, "vault-1")[0]
	late := c.add("shop", 0, "late-1")[0]
	server, err := hall[0].Serve(policy.TCP, allowedPort)
	c.must(err)
	asBefore := func(what string) {
		t.Helper()
		for _, to := range hall {
			c.expect(what, tcp(shop[0].Host, to.Host, allowedPort, true), tcp(shop[0].Host, to.Host, deniedPort, false),
				udp(to.Host, shop[0].Host, allowedPort, false), udp(to.Host, vault.Host, allowedPort, false), udp(vault.Host, to.Host, deniedPort, true))
		}
		if err := shop[0].Exchange(policy.TCP, netip.AddrPortFrom(hall[0].IPs[0], allowedPort), patience); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	asBefore("with the agent")

	dead := c.fences[0]
	c.stop(0)
	asBefore("without an agent")

	// Nothing is connected that nobody has fenced.
	_, err = dead.Add(t.Context(), late.Host, late.key, late.uid())
	if err == nil {
		t.Fatal("ADD without an agent: no error")
	}
	if !strings.Contains(err.Error(), "agent") {
		t.Errorf("ADD without an agent does not say what is missing: %v", err)
	}
	c.must(late.Do(func() error {
		if links := linkNames(t); len(links) != 1 {
			t.Errorf("ADD without an agent leaves links: %v", links)
		}
		return nil
	}))

	// What is to be removed does not wait for it.
	c.must(c.disconnect(dead, shop[1]))
	c.must(c.disconnect(dead, shop[1]))
	gone := shop[1].IPs
	shop[1].Connected(nil)

	// The manifests still show no addresses: all that the next agent knows of
	// the pods is what the plugin told the one before.
	c.start(0)
	asBefore("while the next agent starts")
	c.eventually("ADD with the next agent", func() error { return c.connect(late) })
	asBefore("with the next agent")
	c.expect("what is connected now", tcp(late.Host, hall[0].Host, allowedPort, true), tcp(late.Host, hall[0].Host, deniedPort, false))
	c.expect("a pod that has gone", unowned(hall[0].Host, gone...))
	if server.Accepts() == 0 {
		t.Error("nobody has called")
	}
}

func TestAddressesWithoutAPod(t *testing.T) {
	c := newCluster(t, settings{nodes: 2})
	hall := append(c.pod("hall", 0, "hall-1"), c.pod("hall", 1, "hall-2")...)
	// The pod has addresses of the range that nobody said anything about, and
	// the node even has routes to them: what is sent to them is dropped, and what
	// the pod sends from them.
	stray := c.pod("hall", 0, "stray-1")[0]
	own := stray.IPs
	c.must(stray.Do(func() error { return addTo("eth0", vacant(0)) }))
	c.must(c.nodes[0].Do(func() error { return routeTo(node.DefaultBridge, vacant(0), podMAC(stray)) }))
	var all []lab.Probe
	for _, h := range hall {
		for i, dst := range h.IPs {
			all = append(all,
				between(h.Host, h.IPs[i], stray.Host, own[i], true), between(h.Host, h.IPs[i], stray.Host, vacant(0)[i], false),
				between(stray.Host, own[i], h.Host, dst, true), between(stray.Host, vacant(0)[i], h.Host, dst, false))
		}
		all = append(all, unowned(h.Host, vacant(1)...)...)
	}
	c.expect("addresses without a pod", all)
}

// TestOneBadNode: Nodes that are not as they should be keep no other node's pods from
// being connected, fenced, and reached.
func TestOneBadNode(t *testing.T) {
	c := newCluster(t, settings{nodes: 2, more: denying + `---
apiVersion: v1
kind: Node
metadata: {name: node-8}
spec: {podCIDRs: [10.244.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.8}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-9}
status: {addresses: [{type: InternalIP, address: 192.0.2.9}]}
`})
	hall := append(c.pod("hall", 0, "hall-1"), c.pod("hall", 1, "hall-2")...)
	c.say(hall...)
	c.eventually("routes", func() error { return c.judge(tcp(hall[0].Host, hall[1].Host, allowedPort, true)) })
}
