package semantics_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/lab"
)

// The ICMP messages that the tests send: kind by family.
var (
	unreachable = map[string]uint8{"4": 3, "6": 1}
	// tooBig is of ICMP a code of unreachable; what the code is makes no difference here.
	tooBig    = map[string]uint8{"4": 3, "6": 2}
	expired   = map[string]uint8{"4": 11, "6": 3}
	problem   = map[string]uint8{"4": 12, "6": 4}
	errorKind = []map[string]uint8{unreachable, tooBig, expired, problem}
)

// icmpError is an ICMP error that quotes a packet of UDP with a text in it.
func (c *fenced) icmpError(kind uint8, src netip.Addr, from, to netip.AddrPort, text string) []byte {
	c.t.Helper()
	quoted, err := lab.Craft(policy.Packet{Src: from.Addr(), Dst: to.Addr(), Protocol: policy.UDP, DstPort: to.Port()}, from.Port(), []byte(text))
	if err != nil {
		c.t.Fatal(err)
	}
	p := policy.Packet{Src: src, Dst: from.Addr(), Protocol: policy.ICMP, ICMPType: kind}
	if src.Is6() {
		p.Protocol = policy.ICMPv6
	}
	packet, err := lab.Craft(p, 0, quoted)
	if err != nil {
		c.t.Fatal(err)
	}
	return packet
}

// report is an ICMP error of some kind that a host is to send about a packet of UDP, to its
// sender.
type report struct {
	want     bool
	kind     uint8
	by       string
	from, to netip.AddrPort
	receiver string
}

// reports are errors of each kind.
func (c *fenced) reports(want bool, by string, from, to netip.AddrPort, receiver string) (all []report) {
	for _, kind := range errorKind {
		all = append(all, report{want, kind[familyOf(from.Addr())], by, from, to, receiver})
	}
	return all
}

func familyOf(addr netip.Addr) string {
	if addr.Is4() {
		return "4"
	}
	return "6"
}

// arrive sends errors, and checks which of them arrive.
func (c *fenced) arrive(reports ...report) {
	c.t.Helper()
	sockets := map[string]net.PacketConn{}
	text := func(i int) string { return fmt.Sprintf("payload %04d", i) }
	wanted := map[string]int{}
	for i, r := range reports {
		family := familyOf(r.from.Addr())
		if at := family + r.receiver; sockets[at] == nil {
			network := map[string]string{"4": "ip4:icmp", "6": "ip6:ipv6-icmp"}[family]
			sockets[at] = c.listen(r.receiver, network, c.ip(r.receiver, family).String())
		}
		if r.want {
			wanted[family+r.receiver]++
		}
		if err := c.host(r.by).Send(c.icmpError(r.kind, c.ip(r.by, family), r.from, r.to, text(i))); err != nil {
			c.t.Fatal(err)
		}
	}
	arrived := map[int]bool{}
	for at, socket := range sockets {
		for left := wanted[at]; ; left-- {
			patience := soon
			if left > 0 {
				patience = 3 * time.Second
			}
			if !receive(c.t, socket, patience, func(_ net.Addr, data []byte) bool {
				for i := range reports {
					if !arrived[i] && bytes.Contains(data, []byte(text(i))) {
						arrived[i] = true
						return true
					}
				}
				return false
			}) {
				break
			}
		}
	}
	for i, r := range reports {
		if arrived[i] != r.want {
			c.t.Errorf("error of type %d from %s about what %s sends to %s has reached %s: %t", r.kind, r.by, r.from, r.to, r.receiver, arrived[i])
		}
	}
}

// flow opens a flow of UDP and returns its two ends, as who began it sees them.
func (c *fenced) flow(from string, to netip.AddrPort) (netip.AddrPort, netip.AddrPort) {
	c.t.Helper()
	conn := c.dial(from, policy.UDP, to)
	if err := lab.Echo(conn, []byte("hello"), 3*time.Second); err != nil {
		c.t.Fatalf("%s to %s: %v", from, to, err)
	}
	return netip.MustParseAddrPort(conn.LocalAddr().String()), to
}

// TestA39_ErrorsAboutOnesOwnFlows: an ICMP error from a pod passes only if it is about a
// flow of which the pod is an end, whether the pod is isolated or not.
func TestA39_ErrorsAboutOnesOwnFlows(t *testing.T) {
	for _, attach := range []lab.Attach{lab.Routed, lab.Bridged} {
		for name, o := range map[string]ruleset.Options{"to the node as policy says": {RevokedMark: 1 << 29}, "to the node always": {AllowToNode: true}} {
			t.Run(fmt.Sprintf("%s, %s", attach, name), func(t *testing.T) {
				errorsAboutOnesOwnFlows(clusterWith(t, attach, o, base+`
					policy ops/deny {podSelector: {}, policyTypes: [Ingress, Egress]}
					policy shop/p {podSelector: {}, policyTypes: [Ingress, Egress],
						ingress: [{from: [{ipBlock: {cidr: 203.0.113.7/32}}, {ipBlock: {cidr: "2001:db8::2/128"}}]}]}`))
			})
		}
	}
}

func errorsAboutOnesOwnFlows(c *fenced) {
	c.serve("shop/api", policy.UDP, 80)
	c.serve("world", policy.UDP, 80)
	for _, family := range families {
		world, api := c.flow("world", netip.AddrPortFrom(c.ip("shop/api", family), 80))
		node, far := c.flow("node", netip.AddrPortFrom(c.ip("world", family), 80))
		all := slices.Concat(
			// The ends, both ways.
			c.reports(true, "shop/api", world, api, "world"),
			c.reports(true, "world", api, world, "shop/api"),
			// A router on the way may be anybody that is no pod of the node.
			c.reports(true, "elsewhere", world, api, "world"),
			c.reports(true, "elsewhere", api, world, "shop/api"),
			// About no flow at all: it may be one that another node knows.
			c.reports(false, "db/pg", netip.AddrPortFrom(world.Addr(), 9), api, "world"),
			// The node's own flow: a narrow way to another node, for example.
			c.reports(true, "world", node, far, "node"),
			c.reports(false, "db/pg", node, far, "node"),
			c.reports(false, "ops/cron", node, far, "node"),
		)
		for _, other := range []string{"ops/cron", "shop/web", "db/pg", agreement.Stranger} {
			all = append(all, c.reports(false, other, world, api, "world")...)
			all = append(all, c.reports(false, other, api, world, "shop/api")...)
		}
		if family == "4" { // a pod is no router
			all = append(all, report{false, 5, "shop/api", world, api, "world"}, report{false, 5, "db/pg", world, api, "world"})
		}
		c.arrive(all...)
	}
}

// TestA39_ErrorsBehindHeaders: so it is if the error has extension headers before it, one of
// authentication included, behind which connection tracking sees an error and nftables does not.
func TestA39_ErrorsBehindHeaders(t *testing.T) {
	for _, attach := range []lab.Attach{lab.Routed, lab.Bridged} {
		c := clusterWith(t, attach, ruleset.Options{}, base+denyAll+`policy shop/in {podSelector: {}, policyTypes: [Ingress], ingress: [{}]}`)
		begins := agreement.Case{
			Packet: policy.Packet{Src: c.ip("world", "6"), Dst: c.ip("shop/api", "6"), Protocol: policy.UDP, DstPort: 80, HopLimit: 64},
			Wire:   lab.Wire{SrcPort: 4321},
		}
		var want []bool
		for _, headers := range [][]policy.Protocol{nil, {0}, {43}, {policy.AH}, {60}, {60, policy.AH}} {
			begins.Then = append(begins.Then,
				agreement.Follow{Kind: agreement.OwnError, ICMPType: 1, Extensions: headers},
				agreement.Follow{Kind: agreement.OthersError, ICMPType: 1, Extensions: headers, By: c.host("db/pg")},
				agreement.Follow{Kind: agreement.OthersError, ICMPType: 1, Extensions: headers, By: c.host("elsewhere")},
			)
			want = append(want, true, false, true)
		}
		report, err := c.Check(context.Background(), c.s, []agreement.Case{begins})
		if err != nil {
			t.Fatal(err)
		}
		if len(report) != 1+len(want) {
			t.Fatalf("%d packets checked, want %d", len(report), 1+len(want))
		}
		for i, r := range report[1:] {
			if r.Judged != want[i] || !r.Agree() {
				t.Errorf("want %t: %s", want[i], r)
			}
		}
	}
}

// TestA39_ErrorsThroughNAT: the ends of a flow are who they are, whatever has translated
// their addresses in between: on the way in by a Service's address, or by a port of the
// node's, with and without the client's own address, and on the way out.
func TestA39_ErrorsThroughNAT(t *testing.T) {
	const masquerading = `
	chain postrouting {
		type nat hook postrouting priority srcnat
		ip saddr 203.0.113.7 ct status dnat snat ip to 192.0.2.1
		ip6 saddr 2001:db8::2 ct status dnat snat ip6 to 2001:db8:1::1
	}`
	clusterIP := map[string]string{"4": "10.96.0.10:53", "6": "[fd00:96::10]:53"}
	nodePort := map[string]string{"4": "192.0.2.1:30053", "6": "[2001:db8:1::1]:30053"}
	for name, of := range map[string]struct {
		service     map[string]string
		postrouting string
	}{
		"ClusterIP": {clusterIP, ""}, "ClusterIP, masqueraded": {clusterIP, masquerading},
		"NodePort": {nodePort, ""}, "NodePort, masqueraded": {nodePort, masquerading},
	} {
		t.Run(name, func(t *testing.T) {
			c := cluster(t, base+denyAll+`
				policy shop/in {podSelector: {matchLabels: {app: api}}, policyTypes: [Ingress], ingress: [{}]}`)
			at := func(family string) netip.AddrPort { return netip.MustParseAddrPort(of.service[family]) }
			c.nft("inet", "services", fmt.Sprintf(`chain prerouting {
				type nat hook prerouting priority dstnat
				ip daddr %s udp dport %d dnat ip to %s:80
				ip6 daddr %s udp dport %d dnat ip6 to [%s]:80
			}`, at("4").Addr(), at("4").Port(), c.ip("shop/api", "4"), at("6").Addr(), at("6").Port(), c.ip("shop/api", "6"))+of.postrouting)
			c.serve("shop/api", policy.UDP, 80)
			for _, family := range families {
				client, service := c.flow("world", at(family))
				api, seen := netip.AddrPortFrom(c.ip("shop/api", family), 80), client
				if of.postrouting != "" {
					seen = netip.AddrPortFrom(c.ip("node", family), client.Port())
				}
				// What the pod has got, and what the client has; each knows the other by
				// another address.
				all := slices.Concat(
					c.reports(true, "shop/api", seen, api, "world"),
					c.reports(true, "world", service, client, "shop/api"),
				)
				for _, other := range []string{"ops/cron", "db/pg"} {
					all = slices.Concat(all,
						c.reports(false, other, seen, api, "world"),
						c.reports(false, other, client, service, "world"),
						c.reports(false, other, api, seen, "shop/api"),
						c.reports(false, other, service, client, "shop/api"),
					)
				}
				c.arrive(all...)
			}
		})
	}
	t.Run("masqueraded on the way out", func(t *testing.T) {
		c := cluster(t, base+denyAll+`
			policy shop/out {podSelector: {matchLabels: {app: api}}, policyTypes: [Egress], egress: [{}]}`)
		c.nft("inet", "away", fmt.Sprintf(`chain postrouting {
			type nat hook postrouting priority srcnat
			ip saddr %s ip daddr 203.0.113.7 snat ip to 192.0.2.1
			ip6 saddr %s ip6 daddr 2001:db8::2 snat ip6 to 2001:db8:1::1
		}`, c.ip("shop/api", "4"), c.ip("shop/api", "6")))
		c.serve("world", policy.UDP, 80)
		for _, family := range families {
			api, world := c.flow("shop/api", netip.AddrPortFrom(c.ip("world", family), 80))
			seen := netip.AddrPortFrom(c.ip("node", family), api.Port())
			all := slices.Concat(
				c.reports(true, "shop/api", world, api, "world"),
				c.reports(true, "world", seen, world, "shop/api"),
			)
			for _, other := range []string{"ops/cron", "db/pg"} {
				all = slices.Concat(all,
					c.reports(false, other, world, api, "world"),
					c.reports(false, other, world, seen, "world"),
					c.reports(false, other, api, world, "shop/api"),
					c.reports(false, other, seen, world, "shop/api"),
				)
			}
			c.arrive(all...)
		}
	})
}

// TestA39_ErrorsAreLimited: what passes inwards unasked, from whomever, is not much.
func TestA39_ErrorsAreLimited(t *testing.T) {
	c := cluster(t, base+denyAll+`policy shop/in {podSelector: {}, policyTypes: [Ingress], ingress: [{}]}`)
	c.serve("shop/api", policy.UDP, 80)
	c.serve("shop/web", policy.UDP, 80)
	for _, family := range families {
		world, api := c.flow("world", netip.AddrPortFrom(c.ip("shop/api", family), 80))
		network := map[string]string{"4": "ip4:icmp", "6": "ip6:ipv6-icmp"}[family]
		raw := c.listen("shop/api", network, api.Addr().String())
		// What is about no flow of the pod's uses nothing up.
		nothing := c.icmpError(unreachable[family], c.ip("elsewhere", family), api, netip.AddrPortFrom(world.Addr(), 9), "nothing")
		for range 1000 {
			if err := c.host("elsewhere").Send(nothing); err != nil {
				t.Fatal(err)
			}
		}
		c.arrive(c.reports(true, "elsewhere", api, world, "shop/api")...)
		packet := c.icmpError(unreachable[family], c.ip("elsewhere", family), api, world, "flood")
		const sent = 20_000
		for range sent {
			if err := c.host("elsewhere").Send(packet); err != nil {
				t.Fatal(err)
			}
		}
		got := 0
		for receive(t, raw, soon, func(_ net.Addr, data []byte) bool { return bytes.Contains(data, []byte("flood")) }) {
			got++
		}
		t.Logf("IPv%s: of %d errors, %d arrive", family, sent, got)
		if got == 0 || got > sent/2 {
			t.Errorf("IPv%s: of %d errors, %d arrive", family, sent, got)
		}
		// Each pod has a limit of its own.
		world, web := c.flow("world", netip.AddrPortFrom(c.ip("shop/web", family), 80))
		c.arrive(c.reports(true, "elsewhere", web, world, "shop/web")...)
	}
}
