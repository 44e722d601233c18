package semantics_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
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

// TestA40_TighteningCutsFlows: a change that no longer allows an open
// connection cuts it, both ways and whoever talks; only that; and it goes on
// when it is allowed again.
func TestA40_TighteningCutsFlows(t *testing.T) {
	const bit = 1 << 29
	only := func(port int) string {
		return fmt.Sprintf("policy db/only {podSelector: {}, ingress: [{ports: [{port: %d}, {protocol: UDP, port: %d}]}]}\n", port, port)
	}
	both := "policy db/both {podSelector: {}, ingress: [{}]}\n"
	c := clusterWith(t, lab.Routed, ruleset.Options{RevokedMark: bit}, base+only(5432)+both)
	flows, err := kernel.OpenFlows(kernel.Options{NetNS: c.Node.NetNS()}, bit)
	if err != nil {
		t.Fatal(err)
	}
	defer flows.Close()
	judge := func() {
		t.Helper()
		// What an agent does after each commit.
		_, _, err := flows.Revoke(func(hook ruleset.HookPoint, p policy.Packet) bool {
			return c.Table().Trace(hook, ruleset.TracePacket{Packet: p, State: ruleset.New}).Verdict == ruleset.Accept
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Node.SetSysctl("net/netfilter/nf_conntrack_tcp_loose", "1"); err != nil {
		t.Fatal(err)
	}
	type flow struct {
		conn net.Conn
		port uint16
	}
	var open []flow
	for _, port := range []uint16{5432, 6432} {
		for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
			c.serve("db/pg", protocol, port)
			for _, addr := range c.host("db/pg").IPs {
				open = append(open, flow{c.dial("shop/web", protocol, netip.AddrPortFrom(addr, port)), port})
			}
		}
	}
	expect := func(when string, alive func(flow) bool) {
		t.Helper()
		for _, f := range open {
			wait := 3 * time.Second
			if !alive(f) {
				wait = 150 * time.Millisecond
			}
			err := lab.Echo(f.conn, []byte("x"), wait)
			if (err == nil) != alive(f) {
				t.Errorf("%s: %T to port %d: %v", when, f.conn, f.port, err)
			}
		}
	}
	all := func(flow) bool { return true }
	judge()
	expect("before", all)
	c.becomes(base + only(5432))
	expect("committed, not judged yet", all)
	judge()
	expect("judged", func(f flow) bool { return f.port == 5432 })
	c.becomes(base + only(5432) + both)
	judge()
	open = slices.DeleteFunc(open, func(f flow) bool {
		// What TCP held back comes before the echo that is waited for; that it
		// goes on is tested where the marks are (ruleset/kernel).
		_, tcp := f.conn.(*net.TCPConn)
		return tcp && f.port == 6432
	})
	expect("allowed again", all)
}
