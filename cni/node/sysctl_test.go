package node_test

import (
	"errors"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/node"
)

// fdb lists a device's forwarding database, in the calling thread's namespace.
func fdb(t testing.TB, index int) (entries []string) {
	t.Helper()
	list, err := netlink.NeighList(index, unix.AF_BRIDGE)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range list {
		entries = append(entries, n.HardwareAddr.String()+" at "+n.IP.String()+" dev podfence-vxlan")
	}
	return entries
}

// bridge runs bridge(8) in the namespace.
func (s *space) bridge(args string) {
	s.t.Helper()
	err := s.do(func() error {
		out, err := exec.Command("bridge", strings.Fields(args)...).CombinedOutput()
		if err != nil {
			s.t.Logf("bridge %s: %s", args, out)
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func TestSysctls(t *testing.T) {
	t.Parallel()
	nodes := shared(t, 2, 1500)
	p := nodes[0]
	p.ip("link add quiet type bridge", "link set quiet up")
	for name, value := range map[string]string{
		"net/ipv4/conf/default/accept_source_route": "1", "net/ipv6/conf/default/accept_source_route": "1",
		"net/ipv4/conf/all/rp_filter": "1", "net/ipv6/conf/default/accept_ra": "2", "net/ipv6/conf/default/disable_ipv6": "1",
	} {
		p.setSysctl(name, value)
	}
	p.open(node.Options{Mode: node.VXLAN})
	p.reconcile(all(nodes)...)
	for name, want := range map[string]string{
		"net/ipv4/ip_forward":                              "1",
		"net/ipv4/conf/all/send_redirects":                 "0",
		"net/ipv4/conf/podfence0/send_redirects":           "0",
		"net/ipv4/conf/podfence0/accept_redirects":         "0",
		"net/ipv4/conf/podfence0/accept_source_route":      "0",
		"net/ipv6/conf/podfence0/accept_source_route":      "-1",
		"net/ipv4/conf/podfence-vxlan/accept_source_route": "0",
		"net/ipv6/conf/podfence-vxlan/accept_source_route": "-1",
		"net/ipv4/conf/eth0/send_redirects":                "1",
		"net/ipv4/conf/podfence-vxlan/rp_filter":           "2",
		"net/ipv4/conf/all/rp_filter":                      "1",
		"net/ipv6/conf/all/forwarding":                     "1",
		"net/ipv6/conf/eth0/accept_ra":                     "2", // it has the InternalIP
		"net/ipv6/conf/quiet/accept_ra":                    "1",
		"net/ipv6/conf/podfence0/accept_ra":                "0",
		"net/ipv6/conf/podfence0/disable_ipv6":             "0",
		"net/ipv6/conf/podfence0/accept_dad":               "0",
		"net/ipv6/conf/podfence0/addr_gen_mode":            "1",
		"net/ipv6/conf/podfence-vxlan/addr_gen_mode":       "1",
		"net/ipv6/conf/podfence-vxlan/disable_ipv6":        "0",
		"net/ipv6/conf/podfence-vxlan/accept_ra":           "0",
		"net/ipv6/conf/podfence-vxlan/accept_redirects":    "0",
	} {
		if got := p.sysctl(name); got != want {
			t.Errorf("%s is %s, not %s", name, got, want)
		}
	}
	for _, device := range []string{"podfence0", "podfence-vxlan"} {
		if out := p.ip("-6 addr show dev " + device); strings.Contains(out, "fe80") || strings.Contains(out, "tentative") || !strings.Contains(out, "nodad") {
			t.Error(out)
		}
	}
	// A node that forwards already is left to listen to no routers.
	p.setSysctl("net/ipv6/conf/eth0/accept_ra", "1")
	p.reconcile(all(nodes)...)
	if got := p.sysctl("net/ipv6/conf/eth0/accept_ra"); got != "1" {
		t.Errorf("accept_ra became %s", got)
	}
}

// TestRouterAdvertisement has a default route that a router told of: it must
// survive the node's becoming a router.
func TestRouterAdvertisement(t *testing.T) {
	t.Parallel()
	p, router := newPeer(t, 1, "fd00:1::1"), newSpace(t)
	p.cable(router, 1500)
	p.ip("addr add fd00:1::1/64 dev eth0 nodad")
	learnt := func() bool { return strings.Contains(p.ip("-6 route show default"), "proto ra") }
	deadline := time.Now().Add(patience)
	for ; !learnt(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no default route was learnt")
		}
		if err := router.do(func() error { return advertise("node1") }); err != nil && time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	p.open(node.Options{})
	p.reconcile()
	if got := p.sysctl("net/ipv6/conf/all/forwarding"); got != "1" || !learnt() {
		t.Errorf("forwarding is %s, the default route %s", got, p.ip("-6 route show default"))
	}
}

// advertise sends one router advertisement (RFC 4861, 4.2), lifetime 1800 s.
func advertise(link string) error {
	conn, err := net.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.(*net.IPConn).SyscallConn()
	if err != nil {
		return err
	}
	var bad error
	err = raw.Control(func(fd uintptr) {
		bad = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255)
	})
	if err := errors.Join(err, bad); err != nil {
		return err
	}
	_, err = conn.WriteTo([]byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, &net.IPAddr{IP: net.ParseIP("ff02::1"), Zone: link})
	return err
}

// TestOneFamily has pods of IPv4 alone: the node does not become an IPv6 router.
func TestOneFamily(t *testing.T) {
	t.Parallel()
	nodes, _ := routed(t, 2, 1500, false)
	for _, p := range nodes {
		p.PodCIDRs = p.PodCIDRs[:1]
	}
	start(t, nodes, node.Options{})
	mesh(t, nodes)
	if got := nodes[0].sysctl("net/ipv6/conf/all/forwarding"); got != "0" {
		t.Errorf("IPv6 forwarding is %s", got)
	}
	if out := nodes[0].ip("-6 route show table all proto 112"); out != "" {
		t.Error(out)
	}
}
