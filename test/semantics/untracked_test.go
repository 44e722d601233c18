package semantics_test

import (
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/lab"
)

// notrack exempts ports from connection tracking, both ways, as a DNS cache on each node
// does for itself.
const notrack = `
	chain prerouting {
		type filter hook prerouting priority raw
		meta l4proto { tcp, udp } th dport { 53, 54 } notrack
		meta l4proto { tcp, udp } th sport { 53, 54 } notrack
	}
	chain output {
		type filter hook output priority raw
		meta l4proto { tcp, udp } th sport { 53, 54 } notrack
	}`

// TestA41_UntrackedPackets: what somebody has exempted from connection tracking has no
// connection that it could belong to. The rules judge each packet.
func TestA41_UntrackedPackets(t *testing.T) {
	pods := base + `
		policy shop/p {podSelector: {}, policyTypes: [Ingress, Egress],
			egress: [{ports: [{port: 53}, {port: 53, protocol: UDP}]}]}`
	for name, o := range map[string]ruleset.Options{"marked": {RevokedMark: 1 << 29}, "not marked": {}} {
		t.Run(name, func(t *testing.T) {
			c := clusterWith(t, lab.Routed, o, pods)
			c.nft("inet", "exempt", notrack)
			for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
				c.serve("node", protocol, 53)
				c.serve("node", protocol, 54)
				c.serve("db/pg", protocol, 53)
				// The node's answers meet no rule, a pod's do: they begin nothing that shop/web
				// may get.
				c.talks(true, "shop/web", "node", protocol, 53)
				c.talks(false, "shop/web", "node", protocol, 54)
				c.talks(false, "shop/web", "db/pg", protocol, 53)
			}
			c.becomes(pods + `
			policy shop/answers {podSelector: {}, policyTypes: [Ingress],
				ingress: [{from: [{namespaceSelector: {}}]}]}
			policy db/both {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{}],
				egress: [{to: [{namespaceSelector: {}}]}]}`)
			for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
				c.talks(true, "shop/web", "db/pg", protocol, 53)
				c.talks(true, "shop/web", "node", protocol, 53)
			}
		})
	}
}
