package connectivity_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

// serviceIPs are the addresses of Service number i.
func serviceIPs(i int) []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(i + 1)}), netip.MustParseAddr(fmt.Sprintf("fd00:10:96::%d", i+1))}
}

const servicePort = 80

// services plays kube-proxy on a node: a Service with one endpoint each, and the
// node's own address for what leads a pod back to itself.
func (c *cluster) services(n *lab.Node, backends ...*pod) {
	c.t.Helper()
	var to, back strings.Builder
	for i, p := range backends {
		for j, vip := range serviceIPs(i) {
			family, target := "ip", fmt.Sprintf("%s:%d", p.IPs[j], allowedPort)
			if vip.Is6() {
				family, target = "ip6", fmt.Sprintf("[%s]:%d", p.IPs[j], allowedPort)
			}
			fmt.Fprintf(&to, "%[1]s daddr %[2]s meta l4proto {tcp, udp} th dport %[3]d dnat %[1]s to %[4]s\n", family, vip, servicePort, target)
			fmt.Fprintf(&back, "%[1]s saddr %[2]s %[1]s daddr %[2]s ct status dnat masquerade\n", family, p.IPs[j])
		}
	}
	c.nft(&n.Host, fmt.Sprintf(`table inet services {
		chain pods { type nat hook prerouting priority dstnat; %[1]s }
		chain node { type nat hook output priority -100; %[1]s }
		chain hairpin { type nat hook postrouting priority srcnat; %[2]s }
	}`, to.String(), back.String()))
}

func TestServices(t *testing.T) {
	for _, filtering := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+filtering, func(t *testing.T) {
			c := newCluster(t, settings{nodes: 2, more: clients})
			for _, n := range c.nodes {
				for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
					if err := n.SetSysctl("net/bridge/"+name, filtering); err != nil {
						if filtering == "0" {
							t.Logf("br_netfilter is not loaded, so it filters nothing: %v", err)
							continue
						}
						t.Skipf("skipped: needs br_netfilter: %v", err)
					}
				}
			}
			web := append(c.pod("hall", 0, "client-web"), c.pod("hall", 1, "client-far")...)
			vault := append(c.pod("vault", 0, "vault-near"), c.pod("vault", 1, "vault-far")...)
			client, other := c.pod("hall", 0, "client-1")[0], c.pod("hall", 0, "other-1")[0]
			pods := slices.Concat(web, vault, []*pod{client, other})
			c.say(pods...)
			backends := slices.Concat(web, vault)
			c.services(c.nodes[0], backends...)
			c.eventually("policy on the other node", func() error {
				return c.judge(tcp(client.Host, vault[1].Host, allowedPort, true), tcp(other.Host, vault[1].Host, allowedPort, false))
			})
			for i, to := range backends {
				for j, vip := range serviceIPs(i) {
					dst := netip.AddrPortFrom(vip, servicePort)
					at := netip.AddrPortFrom(to.IPs[j], allowedPort)
					seen, server, err := talk(client.Host, to.Host, dst, at)
					if err != nil || seen != client.IPs[j] || server != vip {
						t.Errorf("%s by Service %s to %s: seen as %s, answered by %s: %v", client, dst, to, seen, server, err)
					}
				}
			}
			// A pod that is its own Service's endpoint.
			for j, vip := range serviceIPs(0) {
				seen, server, err := talk(web[0].Host, web[0].Host, netip.AddrPortFrom(vip, servicePort), netip.AddrPortFrom(web[0].IPs[j], allowedPort))
				if err != nil || !gatewayOf(web[0].IPs[j], seen) || server != vip {
					t.Errorf("%s by its own Service %s: seen as %s, answered by %s: %v", web[0], vip, seen, server, err)
				}
			}
			// What policy denies, it denies by a Service too.
			var all []lab.Probe
			for i, to := range backends {
				free := to.key.Namespace == "hall"
				for _, from := range []*pod{client, other} {
					for _, vip := range serviceIPs(i) {
						for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
							allowed := free || from == client && protocol == policy.TCP
							all = append(all, lab.Probe{From: from.Host, To: to.Host, Packet: policy.Packet{Dst: vip, Protocol: protocol, DstPort: servicePort}, Expect: allowed})
						}
					}
				}
			}
			c.expect("by Services", all)
		})
	}
}
