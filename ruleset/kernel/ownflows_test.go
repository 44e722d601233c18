package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
)

// transparently has a socket use addresses that are not the node's.
func transparently(_, _ string, c syscall.RawConn) (err error) {
	return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1) }), err)
}

// TestRevokeOwnFlows: what the node sends and gets under addresses that it takes for its own
// by AnyIP, or that a transparent proxy of it uses, passes the hooks of the node's own
// packets, and is judged as such when flows are judged anew. What it forwards is not, though
// the node has a server that listens on the same port.
func TestRevokeOwnFlows(t *testing.T) {
	const bit = 1
	n := newFlowNode(t, bit)
	node, flows := n.Node, n.flows
	client, server := n.pod("client", 2), n.pod("server", 4)
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
		check.Value(server.Serve(protocol, 80))(t)
	}
	check.Value(node.Serve(policy.TCP, 80))(t)
	ip := func(args string) {
		t.Helper()
		err := node.Do(func() error {
			if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %s: %w: %s", args, err, out)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	ip("route add local 198.51.100.0/24 dev lo")
	ip("-6 route add local 2001:db8:100::/64 dev lo")
	if err := node.SetSysctl("net/ipv6/ip_nonlocal_bind", "1"); err != nil { // IPv6 does not do with the route
		t.Fatal(err)
	}
	ip("rule add from 10.0.0.0/24 lookup 100")
	ip("route add local 203.0.113.0/24 dev lo table 100")

	var own []net.Conn
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
		for from, to := range map[string]string{"198.51.100.7": "10.0.0.4:80", "2001:db8:100::7": "[fd00::4]:80"} {
			own = append(own, check.Value(node.DialFrom(context.Background(), netip.AddrPortFrom(netip.MustParseAddr(from), 0), protocol, netip.MustParseAddrPort(to)))(t))
		}
	}
	// A proxy that sends under somebody else's address, and one that takes what is for somebody else.
	var proxied net.Conn
	var listener net.Listener
	err := node.Do(func() (err error) {
		dialer := net.Dialer{Timeout: 5 * time.Second, Control: transparently, LocalAddr: &net.TCPAddr{IP: net.IP{203, 0, 113, 5}}}
		if proxied, err = dialer.Dial("tcp", "10.0.0.4:80"); err != nil {
			return err
		}
		listener, err = (&net.ListenConfig{Control: transparently}).Listen(context.Background(), "tcp4", "203.0.113.9:8080")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	own = append(own, proxied)
	taken := make(chan net.Conn, 1)
	go func() {
		if c, err := listener.Accept(); err == nil {
			taken <- c
		}
	}()
	toProxy := check.Value(client.Dial(context.Background(), policy.TCP, netip.MustParseAddrPort("203.0.113.9:8080")))(t)
	defer toProxy.Close()
	proxy := <-taken
	defer proxy.Close()
	forwarded := check.Value(client.Dial(context.Background(), policy.TCP, netip.MustParseAddrPort("10.0.0.4:80")))(t)
	defer forwarded.Close()
	for _, c := range append(own, forwarded) {
		defer c.Close()
		if err := lab.Echo(c, []byte("before"), 2*time.Second); err != nil {
			t.Fatalf("%s -> %s: %v", c.LocalAddr(), c.RemoteAddr(), err)
		}
	}

	var denied []policy.Packet
	revoked, _, err := flows.Revoke(func(hook nft.HookPoint, p policy.Packet) bool {
		if hook == nft.Forward {
			denied = append(denied, p)
		}
		return hook != nft.Forward
	})
	if err != nil || revoked != 1 {
		t.Errorf("revoked %d, want the one that is forwarded (%v); denied were %v", revoked, err, denied)
	}
	if err := lab.Echo(forwarded, []byte("revoked"), 300*time.Millisecond); err == nil {
		t.Error("the forwarded flow goes on")
	}
	for _, c := range own {
		if err := lab.Echo(c, []byte("own"), 2*time.Second); err != nil {
			t.Errorf("%s -> %s: %v", c.LocalAddr(), c.RemoteAddr(), err)
		}
	}
	// And the other way: what the node's own hooks deny, is cut.
	revoked, _, err = flows.Revoke(func(hook nft.HookPoint, p policy.Packet) bool {
		return hook != nft.Output || !netip.MustParsePrefix("198.51.100.0/24").Contains(p.Src)
	})
	if err != nil || revoked != 2 {
		t.Errorf("revoked %d, want the two from 198.51.100.7 (%v)", revoked, err)
	}
}
