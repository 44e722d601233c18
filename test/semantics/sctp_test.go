package semantics_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/lab"
)

// needsSCTP skips a test on a kernel without SCTP sockets. `make test-kernels`
// has kernels with them.
func needsSCTP(t *testing.T) {
	t.Helper()
	if err := lab.CheckSCTP(); err != nil {
		skip(t, err)
	}
}

// TestA23_Associations: what is allowed is associated and carries data both
// ways; and SCTP's ports are not TCP's.
func TestA23_Associations(t *testing.T) {
	needsSCTP(t)
	for _, attach := range []lab.Attach{lab.Routed, lab.Bridged} {
		t.Run(attach.String(), func(t *testing.T) {
			c := clusterWith(t, attach, ruleset.Options{}, base)
			for _, port := range []uint16{80, 81} {
				c.serve("db/pg", policy.SCTP, port)
				c.serve("db/pg", policy.TCP, port)
			}
			talks := func(want bool, protocol policy.Protocol, port uint16) {
				t.Helper()
				c.talks(want, "shop/web", "db/pg", protocol, port)
			}
			ports := func(text string) {
				t.Helper()
				c.becomes(base + `policy db/p {podSelector: {}, ingress: [{ports: [` + text + `]}]}`)
			}
			// Nothing is isolated.
			talks(true, policy.SCTP, 80)
			talks(true, policy.TCP, 80)

			ports(`{protocol: SCTP, port: 80}`)
			talks(true, policy.SCTP, 80)
			talks(false, policy.SCTP, 81)
			talks(false, policy.TCP, 80)

			ports(`{protocol: TCP, port: 80}`)
			talks(true, policy.TCP, 80)
			talks(false, policy.SCTP, 80)

			ports(`{protocol: SCTP, port: 80}, {protocol: TCP, port: 81}`)
			talks(true, policy.SCTP, 80)
			talks(false, policy.SCTP, 81)
			talks(false, policy.TCP, 80)
			talks(true, policy.TCP, 81)

			ports(`{protocol: SCTP}`)
			talks(true, policy.SCTP, 81)
			talks(false, policy.TCP, 81)

			// Egress, where the other direction is open.
			c.becomes(base + `policy shop/p {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{protocol: SCTP, port: 81}]}]}`)
			talks(true, policy.SCTP, 81)
			talks(false, policy.SCTP, 80)
			talks(false, policy.TCP, 81)
		})
	}
}

// TestA40_AssociationsAreCut is TestA40_TighteningCutsFlows for SCTP: one that
// is open is cut when it is judged, its neighbour is not, and what was held back
// arrives when it is allowed again.
func TestA40_AssociationsAreCut(t *testing.T) {
	only := func(protocol string, port int) string {
		return fmt.Sprintf("policy db/only {podSelector: {}, ingress: [{ports: [{protocol: %s, port: %d}]}]}\n", protocol, port)
	}
	both := "policy db/both {podSelector: {}, ingress: [{}]}\n"
	needsSCTP(t)
	c := revoking(t, lab.Routed, base+only("SCTP", 5432)+both)
	open := map[uint16][]net.Conn{}
	for _, port := range []uint16{5432, 6432} {
		c.serve("db/pg", policy.SCTP, port)
		for _, addr := range c.host("db/pg").IPs {
			open[port] = append(open[port], c.dial("shop/web", policy.SCTP, netip.AddrPortFrom(addr, port)))
		}
	}
	echo := func(when string, port uint16, want bool) {
		t.Helper()
		wait := soon
		if want {
			wait = 3 * time.Second
		}
		for _, conn := range open[port] {
			if err := lab.Echo(conn, []byte("x"), wait); (err == nil) != want {
				t.Errorf("%s: port %d: %v", when, port, err)
			}
		}
	}
	c.judge()
	echo("before", 5432, true)
	echo("before", 6432, true)
	c.becomes(base + only("SCTP", 5432))
	echo("committed, not judged yet", 6432, true)
	c.judge()
	echo("judged", 5432, true)
	echo("judged", 6432, false)
	c.talks(false, "shop/web", "db/pg", policy.SCTP, 6432)

	// The same ports, of the other protocol.
	c.becomes(base + only("TCP", 5432))
	c.judge()
	echo("only TCP allowed", 5432, false)

	c.becomes(base + both)
	c.judge()
	for port, conns := range open {
		for _, conn := range conns {
			// SCTP sends it again after a second or a few (RFC 9260 section 6.3).
			if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				t.Errorf("allowed again: port %d: what was held back: %v", port, err)
			}
		}
		echo("allowed again", port, true)
	}
}

// TestB5_Associations: what a conformance suite of ClusterNetworkPolicy probes by SCTP, with real
// associations: both tiers, both directions, numbers and ranges, networks, and the order of rules.
func TestB5_Associations(t *testing.T) {
	needsSCTP(t)
	for _, attach := range []lab.Attach{lab.Routed, lab.Bridged} {
		t.Run(attach.String(), func(t *testing.T) {
			c := clusterWith(t, attach, ruleset.Options{}, base)
			for _, port := range []uint16{80, 81, 82} {
				c.serve("db/pg", policy.SCTP, port)
				c.serve("db/pg", policy.TCP, port)
			}
			talks := func(want bool, from string, protocol policy.Protocol, port uint16) {
				t.Helper()
				c.talks(want, from, "db/pg", protocol, port)
			}
			for _, tier := range []string{"Admin", "Baseline"} {
				in := func(rules string) {
					t.Helper()
					c.becomes(base + `cnp a {tier: ` + tier + `, subject: {namespaces: {matchLabels: {team: data}}}, ingress: [` + rules + `]}`)
				}
				out := func(rules string) {
					t.Helper()
					c.becomes(base + `cnp a {tier: ` + tier + `, subject: {namespaces: {matchLabels: {team: store}}}, egress: [` + rules + `]}`)
				}
				const from, to = `from: [{namespaces: {matchLabels: {team: store}}}]`, `to: [{pods: {namespaceSelector: {matchLabels: {team: data}}, podSelector: {}}}]`
				c.becomes(base)
				talks(true, "shop/web", policy.SCTP, 80)

				in(`{action: Deny, ` + from + `, protocols: [{sctp: {destinationPort: {number: 80}}}]}`)
				talks(false, "shop/web", policy.SCTP, 80)
				talks(true, "shop/web", policy.SCTP, 81)
				talks(true, "shop/web", policy.TCP, 80)
				talks(true, "ops/cron", policy.SCTP, 80)

				in(`{action: Accept, ` + from + `, protocols: [{sctp: {destinationPort: {number: 80}}}]}, {action: Deny, ` + from + `}`)
				talks(true, "shop/web", policy.SCTP, 80)
				talks(false, "shop/web", policy.SCTP, 81)
				talks(false, "shop/web", policy.TCP, 80)

				in(`{action: Pass, ` + from + `, protocols: [{sctp: {destinationPort: {range: {start: 80, end: 81}}}}]}, {action: Deny, ` + from + `}`)
				talks(true, "shop/web", policy.SCTP, 81)
				talks(false, "shop/web", policy.SCTP, 82)
				talks(false, "shop/web", policy.TCP, 81)

				out(`{action: Deny, ` + to + `, protocols: [{sctp: {destinationPort: {range: {start: 81, end: 82}}}}]}`)
				talks(true, "shop/web", policy.SCTP, 80)
				talks(false, "shop/web", policy.SCTP, 81)
				talks(false, "shop/web", policy.SCTP, 82)
				talks(true, "shop/web", policy.TCP, 81)

				out(`{action: Accept, ` + to + `, protocols: [{sctp: {}}]}, {action: Deny, to: [` + anywhere + `]}`)
				talks(true, "shop/web", policy.SCTP, 82)
				talks(false, "shop/web", policy.TCP, 82)

				out(`{action: Deny, to: [` + anywhere + `], protocols: [{sctp: {destinationPort: {number: 80}}}]}`)
				talks(false, "shop/web", policy.SCTP, 80)
				talks(true, "shop/web", policy.SCTP, 81)
				talks(true, "ops/cron", policy.SCTP, 80)
			}
		})
	}
}
