package connectivity_test

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/test/lab"
)

// clients lets only the pods with label app=client reach those of namespace
// vault, wherever they run.
const clients = `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: vault, name: clients}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: client}}}], ports: [{protocol: TCP, port: 1000}]}]
`

func TestPolicyAcrossNodes(t *testing.T) {
	for _, mode := range []node.Mode{node.HostGW, node.VXLAN} {
		t.Run(mode.String(), func(t *testing.T) {
			c := newCluster(t, settings{nodes: 3, mode: mode, more: clients})
			var vaults, allowed, denied []*pod
			for i := range c.nodes {
				suffix := "-" + c.nodes[i].Name
				vaults = append(vaults, c.pod("vault", i, "vault"+suffix)...)
				allowed = append(allowed, c.pod("hall", i, "client"+suffix)...)
				denied = append(denied, c.pod("hall", i, "other"+suffix)...)
			}
			// Until the API shows their addresses, other nodes know nothing of the
			// clients.
			c.expect("clients without an address", tcp(allowed[1].Host, vaults[0].Host, allowedPort, false), tcp(allowed[0].Host, vaults[0].Host, allowedPort, true))
			c.say(vaults...)
			c.say(allowed...)
			c.say(denied...)
			var all []lab.Probe
			for _, to := range vaults {
				for i := range c.nodes {
					own := to.on == i
					all = append(all, tcp(allowed[i].Host, to.Host, allowedPort, true)...)
					all = append(all, tcp(allowed[i].Host, to.Host, deniedPort, false)...)
					all = append(all, tcp(denied[i].Host, to.Host, allowedPort, false)...)
					all = append(all, tcp(&c.nodes[i].Host, to.Host, deniedPort, own)...)
					all = append(all, tcp(to.Host, denied[i].Host, allowedPort, true)...)
				}
			}
			c.eventually("policy", func() error { return c.judge(all) })
		})
	}
}

func TestLargePackets(t *testing.T) {
	for mode, overhead := range map[node.Mode]int{node.HostGW: 0, node.VXLAN: 50} {
		t.Run(mode.String(), func(t *testing.T) {
			c := newCluster(t, settings{nodes: 2, mode: mode})
			a, b := c.pod("hall", 0, "a-1", "a-2"), c.pod("hall", 1, "b-1")
			for _, to := range []*pod{a[1], b[0]} {
				for _, dst := range to.IPs {
					if err := largest(a[0].Host, to.Host, dst, uplinkMTU-overhead); err != nil {
						t.Errorf("%d octets to %s: %v", uplinkMTU-overhead, dst, err)
					}
					err := largest(a[0].Host, to.Host, dst, uplinkMTU-overhead+1)
					if !errors.Is(err, unix.EMSGSIZE) {
						t.Errorf("%d octets to %s, more than the link takes: %v", uplinkMTU-overhead+1, dst, err)
					}
				}
			}
		})
	}
}

// largest sends a UDP packet of exactly size octets, forbidding fragments.
func largest(from, to *lab.Host, dst netip.Addr, size int) error {
	headers, level, option := 28, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
	if dst.Is6() {
		headers, level, option = 48, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	var server *net.UDPConn
	err := to.Do(func() (err error) {
		server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 0)))
		return err
	})
	if err != nil {
		return err
	}
	defer server.Close()
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), level, option, unix.IP_PMTUDISC_DO)
		}), err)
	}}
	var client net.Conn
	err = from.Do(func() (err error) {
		client, err = dialer.Dial("udp", server.LocalAddr().String())
		return err
	})
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := client.Write(make([]byte, size-headers)); err != nil {
		return err
	}
	_ = server.SetDeadline(time.Now().Add(patience))
	_, err = server.Read(make([]byte, 1<<16))
	return err
}

func TestOnlyWhatLeavesTheClusterIsMasqueraded(t *testing.T) {
	for _, mode := range []node.Mode{node.HostGW, node.VXLAN} {
		t.Run(mode.String(), func(t *testing.T) {
			c := newCluster(t, settings{nodes: 2, mode: mode})
			outside, err := c.nodes[0].AddExternal("outside", netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:0:2::1"))
			c.must(err)
			// The link that leads outside has the node's addresses, as uplinks have.
			c.must(c.nodes[0].Do(func() error { return addTo(outside.Link, nodeAddrs(0)) }))
			a, b := c.pod("hall", 0, "a-1", "a-2"), c.pod("hall", 1, "b-1")
			for i, dst := range outside.IPs {
				client, _, err := talk(a[0].Host, outside, netip.AddrPort{}, netip.AddrPortFrom(dst, 0))
				if err != nil || client != nodeAddrs(0)[i] {
					t.Errorf("outside, %s is seen as %s, not as its node: %v", a[0].IPs[i], client, err)
				}
			}
			c.mesh(a[0].Host, a[1].Host, b[0].Host, &c.nodes[0].Host, &c.nodes[1].Host)
		})
	}
}
