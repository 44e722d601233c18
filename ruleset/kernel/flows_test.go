package kernel_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
)

// TestRevoke: a flow that is denied from now on is cut both ways, whichever
// side talks; the others go on; and it goes on when it is allowed again. The
// mark's other bits are somebody else's and stay.
func TestRevoke(t *testing.T) {
	const bit = 1 << 29
	n := newFlowNode(t, bit)
	node, flows := n.Node, n.flows
	client, other, server := n.pod("client", 2), n.pod("other", 3), n.pod("server", 4)
	if err := node.SetSysctl("net/netfilter/nf_conntrack_tcp_loose", "1"); err != nil {
		t.Fatal(err)
	}
	// Somebody else's bits in the mark of every flow.
	runNFT(t, node, "add table inet other; add chain inet other c { type filter hook forward priority 0; }; add rule inet other c ct mark set 0x5")

	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
		check.Value(server.Serve(protocol, 80))(t)
	}
	var cut, kept []net.Conn
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
		for _, ip := range server.IPs {
			for _, from := range []*lab.Host{client, other} {
				c := check.Value(from.Dial(context.Background(), protocol, netip.AddrPortFrom(ip, 80)))(t)
				defer c.Close()
				if err := lab.Echo(c, []byte("before"), 2*time.Second); err != nil {
					t.Fatal(err)
				}
				if from == client {
					cut = append(cut, c)
				} else {
					kept = append(kept, c)
				}
			}
		}
	}

	denied := func(_ nft.HookPoint, p policy.Packet) bool {
		return p.Src != client.IPs[0] && p.Src != client.IPs[1]
	}
	revoked, restored, err := flows.Revoke(denied)
	if err != nil || revoked != len(cut) || restored != 0 {
		t.Fatalf("revoked %d, restored %d, %v; want %d, 0", revoked, restored, err, len(cut))
	}
	if again, _, err := flows.Revoke(denied); err != nil || again != 0 {
		t.Errorf("revoked %d again (%v)", again, err)
	}
	for _, c := range cut {
		if err := lab.Echo(c, []byte("revoked"), 300*time.Millisecond); err == nil {
			t.Errorf("%s -> %s goes on", c.LocalAddr(), c.RemoteAddr())
		}
	}
	for _, c := range kept {
		if err := lab.Echo(c, []byte("kept"), 2*time.Second); err != nil {
			t.Error(err)
		}
	}
	if marks := conntrackMarks(t, node); marks[bit|5] != len(cut) || marks[5] != len(kept) {
		t.Errorf("marks %v: want %d of %#x and %d of 0x5", marks, len(cut), bit|5, len(kept))
	}

	revoked, restored, err = flows.Revoke(func(nft.HookPoint, policy.Packet) bool { return true })
	if err != nil || revoked != 0 || restored != len(cut) {
		t.Fatalf("revoked %d, restored %d, %v; want 0, %d", revoked, restored, err, len(cut))
	}
	for _, c := range cut {
		if _, tcp := c.(*net.TCPConn); tcp {
			// What TCP had to hold back comes first, when it tries again.
			held := make([]byte, len("revoked"))
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err := io.ReadFull(c, held); err != nil || string(held) != "revoked" {
				t.Errorf("%s -> %s: %q came, %v", c.LocalAddr(), c.RemoteAddr(), held, err)
			}
		}
		if err := lab.Echo(c, []byte("again"), 2*time.Second); err != nil {
			t.Error(err)
		}
	}
}

// TestRevokeCountsWhatLives: a connection that has ended, which the kernel remembers, is
// marked with the rest, but none that was cut.
func TestRevokeCountsWhatLives(t *testing.T) {
	const bit = 1
	n := newFlowNode(t, bit)
	node, flows := n.Node, n.flows
	client, server := n.pod("client", 2), n.pod("server", 4)
	check.Value(server.Serve(policy.TCP, 80))(t)
	open := check.Value(client.Dial(context.Background(), policy.TCP, netip.MustParseAddrPort("10.0.0.4:80")))(t)
	defer open.Close()
	for range 3 {
		c := check.Value(client.Dial(context.Background(), policy.TCP, netip.MustParseAddrPort("10.0.0.4:80")))(t)
		if err := lab.Echo(c, []byte("and bye"), 2*time.Second); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	ended := func() int { return strings.Count(conntrack(t, node), "TIME_WAIT") }
	for deadline := time.Now().Add(20 * time.Second); ended() < 3; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("three connections have not ended:\n%s", conntrack(t, node))
		}
	}
	judgements := 0
	revoked, _, err := flows.Revoke(func(nft.HookPoint, policy.Packet) bool { judgements++; return false })
	if err != nil || revoked != 1 || judgements < 4 {
		t.Errorf("of %d flows, one of which lives, %d were cut (%v)", judgements, revoked, err)
	}
	if restored, _, err := flows.Revoke(func(nft.HookPoint, policy.Packet) bool { return false }); err != nil || restored != 0 {
		t.Errorf("again %d were cut (%v)", restored, err)
	}
}

// conntrack is what a node remembers of connections.
func conntrack(t *testing.T, node *lab.Node) (text string) {
	t.Helper()
	err := node.Do(func() error {
		data, err := os.ReadFile("/proc/thread-self/net/nf_conntrack")
		text = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestRevokeBehindNAT: the destination that counts is the real one, not the
// Service address that the client asked for; and the node's own flows are judged as what
// it sends.
func TestRevokeBehindNAT(t *testing.T) {
	const bit = 1
	n := newFlowNode(t, bit)
	node, flows := n.Node, n.flows
	client, server := n.pod("client", 2), n.pod("server", 4)
	runNFT(t, node, `add table ip service; add chain ip service c { type nat hook prerouting priority -100; }; add rule ip service c ip daddr 10.96.0.1 tcp dport 443 dnat to 10.0.0.4:8080`)
	check.Value(server.Serve(policy.TCP, 8080))(t)
	service := check.Value(client.Dial(context.Background(), policy.TCP, netip.MustParseAddrPort("10.96.0.1:443")))(t)
	defer service.Close()
	own := check.Value(node.Dial(context.Background(), policy.TCP, netip.MustParseAddrPort("10.0.0.4:8080")))(t)
	defer own.Close()

	var judged []policy.Packet
	revoked, _, err := flows.Revoke(func(hook nft.HookPoint, p policy.Packet) bool {
		if hook == nft.Output {
			return true
		}
		judged = append(judged, p)
		return false
	})
	if err != nil || revoked != 1 {
		t.Fatalf("revoked %d flows (%v), want the client's", revoked, err)
	}
	want := policy.Packet{Src: netip.MustParseAddr("10.0.0.2"), Dst: netip.MustParseAddr("10.0.0.4"), Protocol: policy.TCP, DstPort: 8080, HopLimit: 64}
	if len(judged) != 1 || judged[0] != want {
		t.Errorf("judged %v, want %v", judged, want)
	}
	if err := lab.Echo(service, []byte("revoked"), 300*time.Millisecond); err == nil {
		t.Error("the flow goes on")
	}
	if err := lab.Echo(own, []byte("own"), 2*time.Second); err != nil {
		t.Error(err)
	}
}

// TestRevokeAnnouncedFlows: a flow that another has announced, as FTP's control
// connection does its data, is judged by that other.
func TestRevokeAnnouncedFlows(t *testing.T) {
	const bit = 1
	n := newFlowNode(t, bit)
	node, flows := n.Node, n.flows
	client, server := n.pod("client", 2), n.pod("server", 4)
	runNFT(t, node, `table ip announced {
		ct helper ftp-data { type "ftp" protocol tcp; }
		chain c { type filter hook prerouting priority 0; tcp dport 21 ct helper set "ftp-data"; }
	}`)
	check.Value(server.Serve(policy.TCP, 21))(t)
	check.Value(server.Serve(policy.TCP, 1025))(t)
	control := check.Value(client.Dial(context.Background(), policy.TCP, netip.MustParseAddrPort("10.0.0.4:21")))(t)
	defer control.Close()
	// The echo server says it, as an FTP server would; a helper listens after a first line.
	for _, line := range []string{"220 Ready\r\n", "227 Entering Passive Mode (10,0,0,4,4,1)\r\n"} {
		if err := lab.Echo(control, []byte(line), 2*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	data := check.Value(client.Dial(context.Background(), policy.TCP, netip.MustParseAddrPort("10.0.0.4:1025")))(t)
	defer data.Close()
	for _, x := range []struct {
		allowed           uint16
		revoked, restored int
	}{{21, 0, 0}, {1025, 2, 0}, {21, 0, 2}} {
		revoked, restored, err := flows.Revoke(func(_ nft.HookPoint, p policy.Packet) bool { return p.DstPort == x.allowed })
		if err != nil || revoked != x.revoked || restored != x.restored {
			t.Errorf("only port %d allowed: revoked %d, restored %d, %v; want %d, %d", x.allowed, revoked, restored, err, x.revoked, x.restored)
		}
	}
	if err := lab.Echo(data, []byte("data"), 2*time.Second); err != nil {
		t.Error(err)
	}
}
