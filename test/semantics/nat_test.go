package semantics_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/lab"
)

// service stands for a service proxy: TCP to a cluster address and to a port
// of the node goes to a pod's port.
func (c *fenced) service(pod string, port int) {
	c.t.Helper()
	c.nft("inet", "services", fmt.Sprintf(`chain prerouting {
		type nat hook prerouting priority dstnat
		ip daddr 10.96.0.10 tcp dport 80 dnat ip to %[1]s:%[3]d
		ip daddr 192.0.2.1 tcp dport 30080 dnat ip to %[1]s:%[3]d
		ip6 daddr fd00:96::10 tcp dport 80 dnat ip6 to [%[2]s]:%[3]d
		ip6 daddr 2001:db8:1::1 tcp dport 30080 dnat ip6 to [%[2]s]:%[3]d
	}`, c.ip(pod, "4"), c.ip(pod, "6"), port))
}

func TestA16_PortAfterDNAT(t *testing.T) {
	c := cluster(t, base+`policy db/p {podSelector: {}, ingress: [{ports: [{port: 5432}]}]}`)
	c.service("db/pg", 5432)
	through := `
		%[1]s shop/web -> db/pg tcp 5432 family 4 via 10.96.0.10:80
		%[1]s shop/web -> db/pg tcp 5432 family 6 via [fd00:96::10]:80
	`
	c.expect(fmt.Sprintf(through, "allow") + `deny shop/web -> db/pg tcp 80`)
	c.serve("db/pg", policy.TCP, 5432)
	c.talksTo(true, "shop/web", policy.TCP, netip.MustParseAddrPort("10.96.0.10:80"))
	c.talksTo(true, "shop/web", policy.TCP, netip.MustParseAddrPort("[fd00:96::10]:80"))
	// The Service's port is nobody's.
	c.becomes(base + `policy db/p {podSelector: {}, ingress: [{ports: [{port: 80}]}]}`)
	c.expect(fmt.Sprintf(through, "deny") + `allow shop/web -> db/pg tcp 80`)
	// So for egress, names included.
	c.becomes(base + `policy shop/p {podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}], ports: [{port: pg}]}]}`)
	c.expect(fmt.Sprintf(through, "allow") + `deny shop/web -> db/pg tcp 80`)
	c.becomes(base + `policy shop/p {podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}], ports: [{port: 80}]}]}`)
	c.expect(fmt.Sprintf(through, "deny"))
}

func TestA32_HairpinIsPoliced(t *testing.T) {
	// A packet to the pod itself goes out to a Service and comes back.
	c := cluster(t, base)
	for policies, word := range map[string]string{
		``: "allow",
		`policy shop/p {podSelector: {}, ingress: []}`:                       "deny",
		`policy shop/p {podSelector: {}, policyTypes: [Egress], egress: []}`: "deny",
		`policy shop/p {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}], egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]}`: "allow",
		`policy shop/p {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {app: api}}}]}], egress: [{}]}`:                                               "deny",
		`policy shop/p {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 80}]}], egress: [{ports: [{port: http}]}]}`:                                                       "allow",
	} {
		c.becomes(base + policies)
		c.expect(word + ` shop/web -> shop/web tcp 80`)
	}
	// As service proxies do it, with the source rewritten on the way out so
	// that the pod answers through the node: judged by the source before that.
	c.service("shop/web", 80)
	c.nft("inet", "hairpin-source", `chain postrouting {
		type nat hook postrouting priority srcnat
		ct status dnat ip saddr 10.244.1.0/24 ip daddr 10.244.1.0/24 snat ip to 192.0.2.1
		ct status dnat ip6 saddr fd00:244:0:1::/64 ip6 daddr fd00:244:0:1::/64 snat ip6 to 2001:db8:1::1
	}`)
	c.serve("shop/web", policy.TCP, 80)
	for policies, want := range map[string]bool{
		`policy shop/p {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}], egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]}`: true,
		`policy shop/p {podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 192.0.2.1/32}}, {ipBlock: {cidr: "2001:db8:1::1/128"}}]}]}`:                                      false,
		`policy shop/p {podSelector: {}, ingress: []}`: false,
	} {
		c.becomes(base + policies)
		c.talksTo(want, "shop/web", policy.TCP, netip.MustParseAddrPort("10.96.0.10:80"))
		c.talksTo(want, "shop/web", policy.TCP, netip.MustParseAddrPort("[fd00:96::10]:80"))
	}
	bridged := clusterWith(t, lab.Bridged, ruleset.Options{}, base+`policy shop/p {podSelector: {}, ingress: [{ports: [{port: 80}]}]}`)
	bridged.expect(`
		allow shop/web -> shop/web tcp 80
		deny  shop/web -> shop/web tcp 81
	`)
}

func TestA36_JudgedAfterDNAT(t *testing.T) {
	c := cluster(t, base+`
		policy db/p {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.7/32}}, {ipBlock: {cidr: "2001:db8::2/128"}}, {podSelector: {}, namespaceSelector: {matchLabels: {team: store}}}], ports: [{port: 5432}]}]}
		policy shop/p {podSelector: {matchLabels: {app: api}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.96.0.0/16}}, {ipBlock: {cidr: "fd00:96::/64"}}, {ipBlock: {cidr: 192.0.2.1/32}}]}]}`)
	c.service("db/pg", 5432)
	c.expect(`
		allow shop/web -> db/pg tcp 5432 family 4 via 10.96.0.10:80          # cluster address
		allow shop/web -> db/pg tcp 5432 family 6 via [fd00:96::10]:80
		deny  ops/cron -> db/pg tcp 5432 family 4 via 10.96.0.10:80
		allow world -> db/pg tcp 5432 family 4 via 192.0.2.1:30080           # node port
		allow world -> db/pg tcp 5432 family 6 via [2001:db8:1::1]:30080
		deny  elsewhere -> db/pg tcp 5432 family 4 via 192.0.2.1:30080
		deny  shop/api -> db/pg tcp 5432 family 4 via 10.96.0.10:80          # a block of Services allows nothing
		deny  shop/api -> db/pg tcp 5432 family 6 via [fd00:96::10]:80
		deny  shop/api -> db/pg tcp 5432 family 4 via 192.0.2.1:30080        # nor does one of the node
	`)
	c.serve("db/pg", policy.TCP, 5432)
	c.talksTo(true, "world", policy.TCP, netip.MustParseAddrPort("192.0.2.1:30080"))
	c.talksTo(false, "elsewhere", policy.TCP, netip.MustParseAddrPort("192.0.2.1:30080"))
}

func TestA37_SourceSeenAtForward(t *testing.T) {
	// What arrives with the client's address is judged by it; what another node
	// has forwarded, by that node's.
	world := `policy db/p {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.7/32}}, {ipBlock: {cidr: "2001:db8::2/128"}}]}]}`
	node2 := `policy db/p {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.2/32}}, {ipBlock: {cidr: "2001:db8:1::2/128"}}]}]}`
	c := cluster(t, base+world)
	c.service("db/pg", 5432)
	c.expect(`
		allow world -> db/pg tcp 5432 family 4 via 192.0.2.1:30080
		deny  node-2 -> db/pg tcp 5432 family 4 via 192.0.2.1:30080
		deny  node-2 -> db/pg tcp 5432
	`)
	c.becomes(base + node2)
	c.expect(`
		deny  world -> db/pg tcp 5432 family 4 via 192.0.2.1:30080
		allow node-2 -> db/pg tcp 5432
	`)
	// Packets that get the node's address here, on the way out, are not the
	// node's own.
	c.nft("inet", "source-nat", `chain postrouting {
		type nat hook postrouting priority srcnat
		ct status dnat ip saddr != 10.244.0.0/16 snat ip to 192.0.2.1
		ct status dnat ip6 saddr != fd00:244::/32 snat ip6 to 2001:db8:1::1
	}`)
	masqueraded := `
		%[1]s world -> db/pg tcp 5432 family 4 via 192.0.2.1:30080 as 192.0.2.1
		%[1]s world -> db/pg tcp 5432 family 6 via [2001:db8:1::1]:30080 as 2001:db8:1::1
	`
	c.expect(fmt.Sprintf(masqueraded, "deny") + `allow node -> db/pg tcp 5432`)
	c.becomes(base + world)
	c.expect(fmt.Sprintf(masqueraded, "allow"))
	c.serve("db/pg", policy.TCP, 5432)
	c.talksTo(true, "world", policy.TCP, netip.MustParseAddrPort("192.0.2.1:30080"))
	c.talksTo(false, "elsewhere", policy.TCP, netip.MustParseAddrPort("192.0.2.1:30080"))
}
