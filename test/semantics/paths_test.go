package semantics_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/lab"
)

// denyAll isolates every pod of base for both directions.
const denyAll = `
	policy shop/deny {podSelector: {}, policyTypes: [Ingress, Egress]}
	policy db/deny {podSelector: {}, policyTypes: [Ingress, Egress]}
	policy ops/deny {podSelector: {}, policyTypes: [Ingress, Egress]}
`

// A31: no hook of the node sees these packets, so there is nothing to trace.
func TestA31_PodReachesItself(t *testing.T) {
	c := cluster(t, base+denyAll)
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
		c.serve("shop/web", protocol, 80)
		c.talks(true, "shop/web", "shop/web", protocol, 80)
	}
	for _, addr := range c.host("shop/web").IPs {
		p := policy.Packet{Src: addr, Dst: addr, Protocol: policy.TCP, DstPort: 80}
		if v := policy.Judge(c.s, p, policy.JudgeOptions{}); !v.Allowed() {
			t.Errorf("%s: %s", p, v)
		}
	}
}

func TestA33_NodeReachesItsPods(t *testing.T) {
	c := cluster(t, base+denyAll)
	c.expect(`
		allow node -> shop/web tcp 80
		allow node -> shop/web udp 53
		allow node -> shop/web sctp 9
		allow node -> shop/web ping
		allow node -> shop/web proto 47
	`)
	// The pod's replies come back, though it may send nothing itself.
	c.serve("shop/web", policy.TCP, 80)
	c.serve("shop/web", policy.UDP, 80)
	c.talks(true, "node", "shop/web", policy.TCP, 80)
	c.talks(true, "node", "shop/web", policy.UDP, 80)
	c.serve("node", policy.TCP, 81)
	c.talks(false, "shop/web", "node", policy.TCP, 81)
	// From any address of the node's: over a bridge it is the bridge's, which
	// is in the pod range and no pod's.
	bridged := clusterWith(t, lab.Bridged, ruleset.Options{}, base+denyAll)
	bridged.serve("shop/web", policy.TCP, 80)
	bridged.talks(true, "node", "shop/web", policy.TCP, 80)
	for _, addr := range bridged.host("shop/web").IPs {
		conn := bridged.dial("node", policy.TCP, netip.AddrPortFrom(addr, 80))
		if from := netip.MustParseAddrPort(conn.LocalAddr().String()).Addr(); from.Is4() && from != netip.MustParseAddr("10.244.1.1") {
			t.Errorf("the node talks from %s, not from its bridge's address", from)
		}
	}
}

func TestA34_OtherNodesAreNotExempt(t *testing.T) {
	c := cluster(t, base+`policy db/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}`)
	c.expect(`
		deny  node-2 -> db/pg tcp 80
		allow node -> db/pg tcp 80
	`)
	c.becomes(base + `policy db/p {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.2/32}}, {ipBlock: {cidr: "2001:db8:1::2/128"}}]}]}`)
	c.expect(`allow node-2 -> db/pg tcp 80`)
	c.becomes(base + `policy db/p {podSelector: {}, ingress: [{ports: [{port: 80}]}]}`)
	c.expect(`
		allow node-2 -> db/pg tcp 80
		deny  node-2 -> db/pg tcp 81
	`)
}

func TestA35_PodToItsNode(t *testing.T) {
	policies := `policy shop/p {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: 80}]}, {to: [{namespaceSelector: {}}]}]}`
	c := cluster(t, base+policies)
	c.expect(`
		allow shop/web -> node tcp 80 family 4
		deny  shop/web -> node tcp 80 family 6
		deny  shop/web -> node tcp 81
		deny  shop/web -> node ping
		allow shop/api -> node tcp 81
		deny  shop/web -> fe80::1 tcp 81 at input     # whichever address of the node's
	`)
	c.becomes(base + denyAll)
	c.expect(`
		deny shop/web -> node tcp 80
		deny shop/web -> node udp 53
	`)
	c = clusterWith(t, lab.Routed, ruleset.Options{AllowToNode: true}, base+denyAll)
	c.expect(`
		allow shop/web -> node tcp 80
		allow shop/web -> node udp 53
		allow shop/web -> node ping
		deny  shop/web -> node-2 tcp 80               # that is not its own
		deny  shop/web -> shop/api tcp 80
	`)
}

// TestA35_NobodyElsesLoopback: what listens on the node's loopback is the node's own, also
// where its packets may be routed (route_localnet), and somebody leads a Service there.
func TestA35_NobodyElsesLoopback(t *testing.T) {
	for _, attach := range []lab.Attach{lab.Routed, lab.Bridged} {
		for name, o := range map[string]ruleset.Options{"as policy says": {}, "always": {AllowToNode: true}} {
			t.Run(fmt.Sprintf("%s, to the node %s", attach, name), func(t *testing.T) {
				nobodyElsesLoopback(clusterWith(t, attach, o, base))
			})
		}
	}
}

func nobodyElsesLoopback(c *fenced) {
	if err := c.Node.SetSysctl("net/ipv4/conf/all/route_localnet", "1"); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = c.Node.SetSysctl("net/ipv4/conf/all/route_localnet", "0") })
	c.nft("inet", "services", `chain prerouting {
		type nat hook prerouting priority dstnat
		ip daddr 10.96.0.11 dnat ip to 127.0.0.1
	}`)
	c.expect(`
		deny shop/web -> 127.0.0.1 tcp 80 via 10.96.0.11:80 at input
		deny shop/web -> 127.0.0.1 udp 80 via 10.96.0.11:80 at input
	`)
	forged := c.listen("node", "udp", netip.AddrPortFrom(c.ip("node", "4"), 4712).String())
	for _, src := range []netip.Addr{netip.MustParseAddr("127.0.0.2"), c.ip("shop/web", "4")} {
		c.send("shop/web", policy.Packet{Src: src, Dst: c.ip("node", "4"), Protocol: policy.UDP, DstPort: 4712}, 4711, nil)
		if got := receive(c.t, forged, soon, func(net.Addr, []byte) bool { return true }); got != src.IsPrivate() {
			c.t.Errorf("what comes from %s has reached the node: %t", src, got)
		}
	}
	// What the node begins there goes on: a node port of the loopback address.
	c.nft("inet", "node-port", fmt.Sprintf(`chain output {
		type nat hook output priority -100
		ip daddr 127.0.0.1 udp dport 30080 dnat ip to %s:80
	}
	chain postrouting {
		type nat hook postrouting priority srcnat
		ip saddr 127.0.0.1 oifname != "lo" masquerade
	}`, c.ip("shop/web", "4")))
	server := c.listen("shop/web", "udp", netip.AddrPortFrom(c.ip("shop/web", "4"), 80).String())
	conn := c.dial("node", policy.UDP, netip.MustParseAddrPort("127.0.0.1:30080"))
	if _, err := conn.Write([]byte("hello")); err != nil {
		c.t.Fatal(err)
	}
	if !receive(c.t, server, 3*time.Second, func(from net.Addr, data []byte) bool {
		_, err := server.WriteTo(data, from)
		return err == nil
	}) {
		c.t.Error("the node port of the loopback address does not lead to the pod")
	}
	if err := conn.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
		c.t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 16)); err != nil {
		c.t.Errorf("the pod's answer to the node's loopback address: %v", err)
	}
}

// A38: masquerading is the network plugin's; podfence does none, and judges and
// forwards what it gets.
func TestA38_NoMasquerading(t *testing.T) {
	c := cluster(t, base+denyAll+`policy ops/in {podSelector: {}, ingress: [{}]}
		policy shop/out {podSelector: {}, policyTypes: [Egress], egress: [{}]}`)
	for _, family := range families {
		for _, to := range []string{"ops/far", "ops/cron"} {
			addr := netip.AddrPortFrom(c.ip(to, family), 7777)
			server := c.listen(to, "udp", addr.String())
			conn := c.dial("shop/web", policy.UDP, addr)
			if _, err := conn.Write([]byte("who am I?")); err != nil {
				t.Fatal(err)
			}
			var from string
			receive(t, server, soon, func(sender net.Addr, _ []byte) bool { from = sender.String(); return true })
			if got, _ := netip.ParseAddrPort(from); got.Addr() != c.ip("shop/web", family) {
				t.Errorf("%s is spoken to from %q, not from %s", to, from, c.ip("shop/web", family))
			}
		}
	}
	for _, chain := range c.Table().Chains {
		if h := chain.Hook; h != nil && h.Point != nft.Forward && h.Point != nft.Input && h.Point != nft.Output {
			t.Errorf("chain %s is at hook %s", chain.Name, h)
		}
	}
	for _, word := range []string{"masquerade", "snat", "dnat", "type nat"} {
		if strings.Contains(c.Table().Text(), word) {
			t.Errorf("the table has %q", word)
		}
	}
}

// A46: frames between two pods of one bridge.
func TestA46_BridgedTraffic(t *testing.T) {
	c := clusterWith(t, lab.Bridged, ruleset.Options{}, base+`
		policy db/p {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{namespaceSelector: {matchLabels: {team: store}}}], ports: [{port: 5432}]}], egress: [{to: [{namespaceSelector: {matchLabels: {team: store}}}]}]}`)
	c.expect(`
		allow shop/web -> db/pg tcp 5432
		deny  shop/web -> db/pg tcp 80
		deny  shop/web -> db/pg udp 5432
		deny  shop/web -> db/pg ping
		deny  shop/web -> db/pg proto 47
		deny  ops/cron -> db/pg tcp 5432
		deny  ops/far -> db/pg tcp 5432
		allow db/pg -> shop/web tcp 1
		deny  db/pg -> ops/cron tcp 1
		deny  db/pg -> world tcp 1
		allow shop/web -> ops/cron tcp 1
		deny  stranger -> shop/web tcp 1
	`)
	c.serve("db/pg", policy.TCP, 5432)
	c.talks(true, "shop/web", "db/pg", policy.TCP, 5432)
	c.talks(false, "ops/cron", "db/pg", policy.TCP, 5432)
	c.becomes(base)
	c.talks(true, "ops/cron", "db/pg", policy.TCP, 5432)
}

// A47: what the node can tell without knowing which port is whose. That a pod
// does not use another pod's address, or one outside, is for the network
// plugin's table.
func TestA47_SpoofedSources(t *testing.T) {
	for _, attach := range []lab.Attach{lab.Routed, lab.Bridged} {
		c := clusterWith(t, attach, ruleset.Options{}, base)
		c.expect(`
			allow shop/web -> db/pg tcp 80
			deny  shop/web -> db/pg tcp 80 family 4 src 10.244.1.77
			deny  shop/web -> db/pg tcp 80 family 6 src fd00:244:0:1::77
			deny  shop/web -> ops/far udp 80 family 4 src 10.244.1.77
			deny  shop/web -> world ping family 4 src 10.244.1.77
			deny  shop/web -> world tcp 80 family 6 src fd00:244:0:1::77
			deny  shop/web -> node tcp 80 family 4 src 10.244.1.77
			deny  shop/web -> node tcp 80 family 6 src fd00:244:0:1::77
		`)
	}
}
