package semantics_test

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/lab"
)

// TestA40_LooseningBreaksNoFlow: an open connection goes on through changes
// that only allow more, and through replacements of the table.
func TestA40_LooseningBreaksNoFlow(t *testing.T) {
	allowed := `policy db/first {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{namespaceSelector: {matchLabels: {team: store}}}], ports: [{port: 5432}, {protocol: UDP, port: 5432}]}]}` + "\n"
	// Each is one more thing that is allowed, or a policy that allows nothing
	// more.
	loosening := []string{
		`policy db/more-a {podSelector: {}, ingress: [{ports: [{port: 80, endPort: 90}]}]}`,
		`policy db/more-b {podSelector: {matchLabels: {app: pg}}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}]}`,
		`policy db/more-c {podSelector: {}, ingress: [{ports: [{port: pg}]}]}`,
		`policy db/more-d {podSelector: {}, policyTypes: [Egress], egress: [{}]}`,
		`policy db/more-e {podSelector: {}, ingress: []}`,
		`policy shop/more-f {podSelector: {}, ingress: [{}]}`,
		`policy db/more-g {podSelector: {}, ingress: [{}]}`,
		`pod shop/another app=web`,
		`pod db/another app=pg`,
		`ns late team=store`,
	}
	c := cluster(t, base+allowed)
	c.serve("db/pg", policy.TCP, 5432)
	c.serve("db/pg", policy.UDP, 5432)
	echo := c.everybodyEchoes("shop/web", "db/pg", 5432)
	echo("before")
	text := base + allowed
	for i, more := range loosening {
		text += more + "\n"
		c.becomes(text)
		echo("after " + more)
		if err := c.Replace(c.s, c.Options()); err != nil {
			t.Fatal(err)
		}
		echo(fmt.Sprintf("after replacement %d", i))
	}
	c.becomes(base) // no policy at all: the loosest
	echo("after the last policy went")
	// The allowing rule is another than it was, at no time none.
	c.becomes(base + allowed + `policy db/second {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/16}}, {ipBlock: {cidr: "fd00:244::/32"}}]}]}`)
	echo("with two rules that allow it")
	c.becomes(base + `policy db/second {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/16}}, {ipBlock: {cidr: "fd00:244::/32"}}]}]}`)
	echo("with the other rule")
}

// everybodyEchoes opens connections between two hosts, TCP and UDP, over both
// families. The function that it returns checks that all of them still work.
func (c *fenced) everybodyEchoes(from, to string, port uint16) func(when string) {
	c.t.Helper()
	check := []func(string){}
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
		for _, addr := range c.host(to).IPs {
			conn := c.dial(from, protocol, netip.AddrPortFrom(addr, port))
			check = append(check, func(when string) {
				c.t.Helper()
				if err := lab.Echo(conn, []byte(when), 3*time.Second); err != nil {
					c.t.Fatalf("%s: %s to %s: %v", when, protocol, addr, err)
				}
			})
		}
	}
	return func(when string) {
		c.t.Helper()
		for _, one := range check {
			one(when)
		}
	}
}

// revokedMark is the agent's default.
const revokedMark = 1 << 29

// revoking is a cluster of which established flows can be judged.
func revoking(t *testing.T, attach lab.Attach, text string) *fenced {
	t.Helper()
	c := clusterWith(t, attach, ruleset.Options{RevokedMark: revokedMark}, text)
	if err := c.Node.FlushConntrack(); err != nil {
		t.Fatal(err)
	}
	return c
}

// judge judges all flows anew, as an agent does after each commit.
func (c *fenced) judge() (revoked, restored int) {
	c.t.Helper()
	flows, err := kernel.OpenFlows(kernel.Options{NetNS: c.Node.NetNS()}, revokedMark)
	if err != nil {
		c.t.Fatal(err)
	}
	defer flows.Close()
	revoked, restored, err = flows.Revoke(func(hook nft.HookPoint, p policy.Packet) bool {
		return c.Table().Trace(hook, nft.TracePacket{Packet: p, State: nft.New, Open: true}).Verdict == nft.Accept
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return revoked, restored
}

// conversation is an open connection with a name.
type conversation struct {
	name string
	conn net.Conn
	said byte
}

// converse opens a TCP and a UDP connection to a port of each address.
func (c *fenced) converse(what, from string, port uint16, to ...netip.Addr) (all []*conversation) {
	c.t.Helper()
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
		for _, addr := range to {
			name := fmt.Sprintf("%s, %s %s port %d", what, protocol, addr, port)
			all = append(all, &conversation{name: name, conn: c.dial(from, protocol, netip.AddrPortFrom(addr, port))})
		}
	}
	return all
}

// echo says something new and waits for it to come back. What was held back while the
// connection was cut may come before.
func (v *conversation) echo(patience time.Duration) error {
	v.said++
	if err := v.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := v.conn.Write([]byte{v.said}); err != nil {
		return err
	}
	for buffer := make([]byte, 64); ; {
		n, err := v.conn.Read(buffer)
		if bytes.IndexByte(buffer[:n], v.said) >= 0 || err != nil {
			return err
		}
	}
}

// expectAll checks that all conversations go on, or that none does.
func (c *fenced) expectAll(when string, alive bool, conversations []*conversation) {
	c.t.Helper()
	patience := 10 * time.Second // TCP waits twice as long before each next try
	if !alive {
		patience = soon
	}
	errs := make([]error, len(conversations))
	var wait sync.WaitGroup
	for i, one := range conversations {
		wait.Go(func() { errs[i] = one.echo(patience) })
	}
	wait.Wait()
	for i, err := range errs {
		if (err == nil) != alive {
			c.t.Errorf("%s: %s: %v", when, conversations[i].name, err)
		}
	}
}

// TestA40_TighteningCutsFlows: a change that no longer allows an open connection cuts
// it, whatever its ends and the NAT on its way, and only that; the node's own are never
// cut; and it goes on when it is allowed again.
func TestA40_TighteningCutsFlows(t *testing.T) {
	ports := func(ports string) string {
		return fmt.Sprintf("policy db/p {podSelector: {}, ingress: [{ports: [%[1]s]}]}\n"+
			"policy shop/p {podSelector: {matchLabels: {app: api}}, policyTypes: [Egress], egress: [{ports: [%[1]s]}]}\n", ports)
	}
	const kept, lost = "{port: 5432}, {protocol: UDP, port: 5432}", "{port: 6432}, {protocol: UDP, port: 6432}"
	for _, attach := range []lab.Attach{lab.Routed, lab.Bridged} {
		t.Run(attach.String(), func(t *testing.T) {
			c := revoking(t, attach, base+ports(kept+", "+lost))
			service := func(last string) []netip.Addr {
				return []netip.Addr{netip.MustParseAddr("10.96.0." + last), netip.MustParseAddr("fd00:96::" + last)}
			}
			// As service proxies do it: 10 and 20 with the sender's address, 11 with the node's.
			c.nft("inet", "services", fmt.Sprintf(`
				chain prerouting {
					type nat hook prerouting priority dstnat
					ip daddr { 10.96.0.10, 10.96.0.11 } dnat ip to %s
					ip6 daddr { fd00:96::10, fd00:96::11 } dnat ip6 to %s
					ip daddr 10.96.0.20 dnat ip to %s
					ip6 daddr fd00:96::20 dnat ip6 to %s
				}
				chain postrouting {
					type nat hook postrouting priority srcnat
					ct original ip daddr 10.96.0.11 snat ip to 192.0.2.1
					ct original ip6 daddr fd00:96::11 snat ip6 to 2001:db8:1::1
				}`, c.ip("db/pg", "4"), c.ip("db/pg", "6"), c.ip("world", "4"), c.ip("world", "6")))
			var going, cut []*conversation
			served := map[string]bool{}
			for _, way := range []struct {
				what, from, to string
				by             []netip.Addr
				own            bool
			}{
				{what: "between two pods", from: "shop/web", to: "db/pg"},
				{what: "from another node's pod", from: "ops/far", to: "db/pg"},
				{what: "from outside", from: "world", to: "db/pg"},
				{what: "by a Service", from: "shop/web", to: "db/pg", by: service("10")},
				{what: "from outside by a Service", from: "world", to: "db/pg", by: service("10")},
				{what: "masqueraded", from: "shop/web", to: "db/pg", by: service("11")},
				{what: "from outside, masqueraded", from: "world", to: "db/pg", by: service("11")},
				{what: "back to itself", from: "db/pg", to: "db/pg", by: service("11")},
				{what: "to a pod, by egress", from: "shop/api", to: "shop/web"},
				{what: "to another node's pod", from: "shop/api", to: "ops/far"},
				{what: "to outside", from: "shop/api", to: "world"},
				{what: "to outside by a Service", from: "shop/api", to: "world", by: service("20")},
				{what: "to the node", from: "shop/api", to: "node"},
				{what: "from the node", from: "node", to: "db/pg", own: true},
			} {
				if way.by == nil {
					way.by = c.host(way.to).IPs
				}
				for _, port := range []uint16{5432, 6432} {
					if id := fmt.Sprint(way.to, port); !served[id] {
						served[id] = true
						c.serve(way.to, policy.TCP, port)
						c.serve(way.to, policy.UDP, port)
					}
					flows := c.converse(way.what, way.from, port, way.by...)
					if port == 5432 || way.own {
						going = append(going, flows...)
					} else {
						cut = append(cut, flows...)
					}
				}
			}
			c.expectAll("before", true, slices.Concat(going, cut))
			if revoked, _ := c.judge(); revoked != 0 {
				t.Errorf("%d flows revoked that are allowed", revoked)
			}
			c.becomes(base + ports(kept))
			c.expectAll("committed, not judged yet", true, cut)
			if revoked, restored := c.judge(); revoked != len(cut) || restored != 0 {
				t.Errorf("revoked %d, restored %d, want %d, 0", revoked, restored, len(cut))
			}
			c.expectAll("tightened", false, cut)
			c.expectAll("tightened", true, going)
			c.becomes(base + ports(kept+", "+lost))
			if revoked, restored := c.judge(); revoked != 0 || restored != len(cut) {
				t.Errorf("revoked %d, restored %d, want 0, %d", revoked, restored, len(cut))
			}
			c.expectAll("allowed again", true, slices.Concat(going, cut))
		})
	}
}

// TestA40_WhateverChanges: any change that takes the permission away cuts the flow.
func TestA40_WhateverChanges(t *testing.T) {
	const onlyWeb = `policy db/p {podSelector: {matchLabels: {app: pg}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: store}}, podSelector: {matchLabels: {app: web}}}], ports: [{port: pg}, {protocol: UDP, port: pg}]}]}` + "\n"
	named := replace(base, "pod db/pg app=pg pg:5432", "pod db/pg app=pg pg:5432 pg:5432/udp")
	before := named + onlyWeb
	c := revoking(t, lab.Routed, before)
	c.serve("db/pg", policy.TCP, 5432)
	c.serve("db/pg", policy.UDP, 5432)
	flows := c.converse("web to pg", "shop/web", 5432, c.host("db/pg").IPs...)
	own := c.converse("node to pg", "node", 5432, c.host("db/pg").IPs...)
	c.expectAll("before", true, flows)
	for what, after := range map[string]string{
		"a pod's label":                replace(before, "shop/web app=web", "shop/web app=other"),
		"a namespace's label":          replace(before, "ns shop kubernetes.io/metadata.name=shop team=store", "ns shop kubernetes.io/metadata.name=shop"),
		"a policy's rule":              replace(before, "{app: web}}}]", "{app: api}}}]"),
		"a policy less":                named + `policy db/p {podSelector: {}, ingress: []}`,
		"a policy more":                before + `policy shop/out {podSelector: {}, policyTypes: [Egress]}`,
		"a port's name":                replace(before, "pg:5432 pg:5432/udp", "sql:5432 sql:5432/udp"),
		"the pod's end":                replace(before, "pod shop/web app=web http:80", "pod shop/web app=web http:80 !phase=Failed"),
		"another pod at the address":   replace(before, "pod shop/web app=web http:80", "pod shop/web app=web !phase=Failed\npod shop/heir app=other !at=shop/web !started=9"),
		"the pod's address not known":  replace(before, "pod shop/web app=web http:80", "pod shop/web app=web http:80 !noip"),
		"a policy that cannot be read": named + replace(onlyWeb, "{app: web}", `{"not a label!": web}`),
	} {
		c.becomes(after)
		if revoked, restored := c.judge(); revoked != len(flows) || restored != 0 {
			t.Errorf("%s: revoked %d, restored %d, want %d, 0", what, revoked, restored, len(flows))
		}
		c.expectAll(what, false, flows)
		c.expectAll(what, true, own)
		c.becomes(before)
		if _, restored := c.judge(); restored != len(flows) {
			t.Errorf("%s: restored %d, want %d", what, restored, len(flows))
		}
		c.expectAll("after "+what, true, flows)
	}
}

// TestA40_PortlessFlows: an echo's flow, and one of a protocol that connection tracking
// knows nothing of, are cut as others.
func TestA40_PortlessFlows(t *testing.T) {
	c := revoking(t, lab.Routed, base)
	for _, family := range families {
		src, dst := c.ip("shop/web", family), c.ip("db/pg", family)
		for _, p := range []policy.Packet{
			{Src: src, Dst: dst, Protocol: policy.ICMP, ICMPType: 8},
			{Src: src, Dst: dst, Protocol: policy.ICMPv6, ICMPType: 128},
			{Src: src, Dst: dst, Protocol: policy.SCTP, DstPort: 5432},
			{Src: src, Dst: dst, Protocol: 99},
		} {
			if src.Is4() && p.Protocol == policy.ICMPv6 || src.Is6() && p.Protocol == policy.ICMP {
				continue
			}
			raw := c.listen("db/pg", fmt.Sprintf("ip%s:%d", family, p.Protocol), dst.String())
			arrives := func() bool {
				c.send("shop/web", p, 4711, nil)
				return receive(t, raw, soon, func(from net.Addr, _ []byte) bool { return from.String() == src.String() })
			}
			for _, step := range []struct {
				policies string
				want     bool
			}{{"", true}, {`policy db/p {podSelector: {}, ingress: [{ports: [{port: 5432}]}]}`, false}, {"", true}} {
				c.becomes(base + step.policies)
				c.judge()
				if arrives() != step.want {
					t.Errorf("%s with %q: arrives %t", p, step.policies, !step.want)
				}
			}
		}
	}
}

// TestA40_AnyStateOfTCP: a connection is cut before it is established, and when one
// end has nothing more to say; it goes on from there.
func TestA40_AnyStateOfTCP(t *testing.T) {
	const deny = `policy db/p {podSelector: {}, ingress: [{ports: [{port: 1}]}]}`
	c := revoking(t, lab.Routed, base)
	// Nobody answers a SYN: the node keeps resets from connection tracking.
	c.nft("inet", "silence", `chain c { type filter hook prerouting priority raw; tcp flags rst drop; }`)
	for _, family := range families {
		to := netip.AddrPortFrom(c.ip("db/pg", family), 7000)
		half := c.halfClosed("shop/web", to)
		hear(t, "before", true, half)

		syn := policy.Packet{Src: c.ip("shop/web", family), Dst: to.Addr(), Protocol: policy.TCP, DstPort: 7001}
		raw := c.listen("db/pg", "ip"+family+":tcp", to.Addr().String())
		arrives := func() bool {
			c.send("shop/web", syn, 4711, nil)
			return receive(t, raw, soon, func(_ net.Addr, data []byte) bool { return data[0] == 4711>>8 && data[1] == 4711&0xff })
		}
		if !arrives() {
			t.Error("no SYN arrives")
		}
		c.becomes(base + deny)
		c.judge()
		hear(t, "denied", false, half)
		if arrives() {
			t.Error("the SYN of a connection that is denied arrives again")
		}
		c.becomes(base)
		c.judge()
		hear(t, "allowed again", true, half)
		if !arrives() {
			t.Error("allowed again, no SYN arrives")
		}
	}
}
