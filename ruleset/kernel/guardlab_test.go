package kernel_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// guardLab is a node with pods on a bridge, connected as the CNI plugin does it:
// /32 and /128, everything by the gateway, permanent neighbour entries on both
// sides. Behind the node's uplink is a host that is another node (192.0.2.2,
// with the pod 10.244.2.2) and the outside (198.51.100.1) in one.
type guardLab struct {
	t             testing.TB
	node, outside *namespace
	a, b          *guardPod
	gateway       ruleset.Gateway
}

// guardPod is a pod of a guardLab.
type guardPod struct {
	*namespace
	policy.Attachment
}

const bridgeName = "podfence0"

// do runs f in the namespace; an error fails the test.
func (n *namespace) do(what string, f func() error) {
	n.t.Helper()
	var err error
	n.run(func() { err = f() })
	if err != nil {
		n.t.Fatalf("%s: %v", what, err)
	}
}

// sysctl sets a sysctl of the namespace, by its path below net.
func (n *namespace) sysctl(path, value string) {
	n.t.Helper()
	n.do(path+"="+value, func() error { return os.WriteFile("/proc/sys/net/"+path, []byte(value), 0) })
}

func hostPrefix(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
}

// address gives a link an address, with no duplicate address detection.
func address(link netlink.Link, texts ...string) error {
	for _, text := range texts {
		prefix := netip.MustParsePrefix(text)
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}}
		if prefix.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("address %s: %w", text, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// callIPTables says whether br_netfilter takes bridged packets to the inet
// hooks, as most nodes have it.
func newGuardLab(t *testing.T, callIPTables string) *guardLab {
	t.Helper()
	l := &guardLab{t: t, node: newNamespace(t), outside: newNamespace(t), gateway: gateway("10.244.1.1", "fd00:10:244:1::1")}
	for path, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/conf/all/send_redirects": "0", "ipv4/conf/default/send_redirects": "0",
		"ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0",
		"bridge/bridge-nf-call-iptables": callIPTables, "bridge/bridge-nf-call-ip6tables": callIPTables,
	} {
		l.node.sysctl(path, value)
	}
	for _, n := range []*namespace{l.node, l.outside} {
		n.sysctl("ipv6/conf/default/accept_dad", "0")
	}
	l.node.do("bridge", func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName, HardwareAddr: l.gateway.MAC[:]}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		return address(bridge, "10.244.1.1/32", "fd00:10:244:1::1/128")
	})
	l.connectOutside()
	l.a = l.addPod(attachment("pf4kzn2xo1a7", 2, "10.244.1.2", "fd00:10:244:1::2"))
	l.b = l.addPod(attachment("pfq3vd8s0mwe", 3, "10.244.1.3", "fd00:10:244:1::3"))
	l.node.awaitLocal("fd00:10:244:1::1", "2001:db8::1")
	l.outside.awaitLocal("2001:db8::2", "2001:db8:f::1")
	l.a.awaitLocal("fd00:10:244:1::2")
	l.b.awaitLocal("fd00:10:244:1::3")
	return l
}

// awaitLocal waits until packets to IPv6 addresses are delivered: the kernel
// makes an address's local route in a work queue (addrconf_dad_work), which on a
// busy machine takes its time.
func (n *namespace) awaitLocal(texts ...string) {
	n.t.Helper()
	for _, text := range texts {
		local := func() error {
			routes, err := netlink.RouteGet(net.ParseIP(text))
			if err == nil && (len(routes) == 0 || routes[0].Type != unix.RTN_LOCAL) {
				err = errors.New("no local route")
			}
			return err
		}
		deadline := time.Now().Add(30 * time.Second)
		for {
			var err error
			n.run(func() { err = local() })
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				n.t.Fatalf("address %s: %v", text, err)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// connectOutside makes the uplink.
func (l *guardLab) connectOutside() {
	l.node.do("uplink", func() error {
		up := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(l.outside.fd)}
		if err := netlink.LinkAdd(up); err != nil {
			return err
		}
		if err := address(up, "192.0.2.1/24", "2001:db8::1/64"); err != nil {
			return err
		}
		return l.routes(up, "192.0.2.2", "10.244.2.0/24", "198.51.100.0/24")
	})
	l.outside.do("outside", func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := address(eth0, "192.0.2.2/24", "10.244.2.2/32", "198.51.100.1/32", "2001:db8::2/64", "2001:db8:f::1/128"); err != nil {
			return err
		}
		return l.routes(eth0, "192.0.2.1", "10.244.1.0/24")
	})
	l.node.do("uplink", func() error {
		up, err := netlink.LinkByName("up0")
		if err != nil {
			return err
		}
		return l.routes(up, "2001:db8::2", "2001:db8:f::/64")
	})
	l.outside.do("outside", func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return l.routes(eth0, "2001:db8::1", "fd00:10:244:1::/64")
	})
}

func (l *guardLab) routes(link netlink.Link, via string, to ...string) error {
	for _, text := range to {
		_, prefix, err := net.ParseCIDR(text)
		if err != nil {
			return err
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: prefix, Gw: net.ParseIP(via), Flags: int(netlink.FLAG_ONLINK)}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("route %s: %w", text, err)
		}
	}
	return nil
}

func (l *guardLab) addPod(a policy.Attachment) *guardPod {
	l.t.Helper()
	pod := &guardPod{newNamespace(l.t), a}
	// No link-local address: nothing that a pod may send needs it.
	pod.sysctl("ipv6/conf/default/addr_gen_mode", "1")
	l.node.do("port", func() error {
		bridge, err := netlink.LinkByName(bridgeName)
		if err != nil {
			return err
		}
		port := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: a.HostInterface, Group: ruleset.LinkGroup, MasterIndex: bridge.Attrs().Index},
			PeerName:  "eth0", PeerNamespace: netlink.NsFd(pod.fd), PeerHardwareAddr: a.MAC[:],
		}
		if err := netlink.LinkAdd(port); err != nil {
			return err
		}
		// Where br_netfilter is on, what a pod sends to itself by a Service goes
		// out by the port that it came in by.
		if err := netlink.LinkSetHairpin(port, true); err != nil {
			return err
		}
		// The bridge knows who is where and learns nothing: see portsChain.
		if err := netlink.LinkSetLearning(port, false); err != nil {
			return err
		}
		fdb := &netlink.Neigh{LinkIndex: port.Index, Family: unix.AF_BRIDGE, HardwareAddr: a.MAC[:], Flags: netlink.NTF_MASTER, State: netlink.NUD_NOARP}
		if err := netlink.NeighSet(fdb); err != nil {
			return err
		}
		for _, addr := range a.IPs {
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: bridge.Attrs().Index, Dst: hostPrefix(addr), Scope: netlink.SCOPE_LINK}); err != nil {
				return err
			}
			if err := neighbour(bridge, addr, a.MAC); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(port)
	})
	pod.do("pod", func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := address(eth0, a.IPs[0].String()+"/32", a.IPs[1].String()+"/128"); err != nil {
			return err
		}
		for i, addr := range l.gateway.Addrs {
			if err := neighbour(eth0, addr, l.gateway.MAC); err != nil {
				return err
			}
			if err := l.routes(eth0, addr.String(), []string{"0.0.0.0/0", "::/0"}[i]); err != nil {
				return err
			}
		}
		return nil
	})
	// The bridge forwards by a port once its link is known to be up, which the
	// kernel takes note of in its own time (linkwatch).
	for range 200 {
		up := false
		l.node.do("wait for the port", func() error {
			port, err := netlink.LinkByName(a.HostInterface)
			up = err == nil && port.Attrs().OperState == netlink.OperUp
			return err
		})
		if up {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return pod
}

func neighbour(link netlink.Link, addr netip.Addr, mac [6]byte) error {
	return netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: addr.AsSlice(), HardwareAddr: mac[:], State: netlink.NUD_PERMANENT})
}

// guard puts both tables of the two pods in place, with masquerading.
func (l *guardLab) guard() {
	l.t.Helper()
	m := policy.NewModel("node-1")
	m.Apply(policy.SetNode(policy.Node{Name: "node-1", PodCIDRs: prefixList("10.244.1.0/24", "fd00:10:244:1::/64"), Addrs: parseAddrs([]string{"192.0.2.1", "2001:db8::1"})}))
	m.Apply(policy.SetNode(policy.Node{Name: "node-2", PodCIDRs: prefixList("10.244.2.0/24"), Addrs: parseAddrs([]string{"192.0.2.2", "2001:db8::2"})}))
	for _, pod := range []*guardPod{l.a, l.b} {
		m.Apply(policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: "shop", Name: pod.HostInterface}, Node: "node-1", IPs: pod.IPs}))
	}
	c := l.node.open()
	for _, plan := range []nft.Plan{
		ruleset.BuildGuard([]policy.Attachment{l.a.Attachment, l.b.Attachment}, l.gateway, ruleset.FragmentMemory{}).Replacement(),
		ruleset.Build(m.Intent(), ruleset.Options{Guard: true, Masquerade: true}).Replacement(),
	} {
		if err := c.Apply(plan); err != nil {
			l.t.Fatal(err)
		}
	}
}

// listen answers UDP on port 8080 of all addresses with the client's own, until
// the test ends.
func (n *namespace) listen() {
	n.t.Helper()
	n.do("listen", func() error {
		addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
		for _, addr := range addrs {
			if addr.IP.IsLinkLocalUnicast() {
				continue
			}
			// One each: an answer must have the address that was asked.
			conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: addr.IP, Port: 8080})
			if err != nil {
				return err
			}
			n.t.Cleanup(func() { _ = conn.Close() })
			go answer(conn)
		}
		return err
	})
}

func answer(conn net.PacketConn) {
	buffer := make([]byte, 2048)
	for {
		_, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		// If a reply can't be sent, the client notices that.
		_, _ = conn.WriteTo([]byte(from.(*net.UDPAddr).IP.String()), from)
	}
}

// ask sends one packet, and returns what the other end says the client's address
// is.
func (n *namespace) ask(to string) (string, error) {
	n.t.Helper()
	var conn net.Conn
	n.do("dial "+to, func() (err error) {
		conn, err = net.Dial("udp", net.JoinHostPort(to, "8080"))
		return err
	})
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		n.t.Fatal(err)
	}
	if _, err := conn.Write([]byte("?")); err != nil {
		return "", err
	}
	buffer := make([]byte, 100)
	count, err := conn.Read(buffer)
	return string(buffer[:count]), err
}

func prefixList(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}
