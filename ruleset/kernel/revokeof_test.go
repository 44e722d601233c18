package kernel_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
)

// TestRevokeOf: the flows are judged that an address has begun and those that lead to it, also
// behind destination NAT, of both families, while all are judged beside; no others are.
func TestRevokeOf(t *testing.T) {
	const bit = 1 << 29
	n := newFlowNode(t, bit)
	node, flows := n.Node, n.flows
	changed, other, third := n.pod("changed", 2), n.pod("other", 3), n.pod("third", 4)
	runNFT(t, node, `add table ip service; add chain ip service c { type nat hook prerouting priority -100; }; add rule ip service c ip daddr 10.96.0.1 tcp dport 443 dnat to 10.0.0.2:8080`)
	for _, host := range []*lab.Host{changed, other, third} {
		check.Value(host.Serve(policy.TCP, 8080))(t)
		check.Value(host.Serve(policy.UDP, 8080))(t)
	}
	dial := func(from *lab.Host, protocol policy.Protocol, to string) net.Conn {
		c := check.Value(from.Dial(context.Background(), protocol, netip.MustParseAddrPort(to)))(t)
		t.Cleanup(func() { c.Close() })
		if err := lab.Echo(c, []byte("hello"), 3*time.Second); err != nil {
			t.Fatal(err)
		}
		return c
	}
	cut := []net.Conn{dial(other, policy.TCP, "10.96.0.1:443")}
	var kept []net.Conn
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
		cut = append(cut, dial(changed, protocol, "10.0.0.3:8080"), dial(other, protocol, "10.0.0.2:8080"),
			dial(changed, protocol, "[fd00::3]:8080"), dial(other, protocol, "[fd00::2]:8080"))
		kept = append(kept, dial(third, protocol, "10.0.0.3:8080"), dial(third, protocol, "[fd00::3]:8080"))
	}
	is := func(addr netip.Addr) bool { return addr == changed.IPs[0] || addr == changed.IPs[1] }
	others := func(_ nft.HookPoint, p policy.Packet) bool {
		if !is(p.Src) && !is(p.Dst) {
			t.Errorf("%s is judged", p)
			return true
		}
		return false
	}
	// While all are being judged: that a flow waits for its verdict holds up no other.
	asked, answer, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		first := true
		_, _, err := flows.Revoke(func(nft.HookPoint, policy.Packet) bool {
			if first {
				first = false
				close(asked)
				<-answer
			}
			return true
		})
		done <- err
	}()
	<-asked
	revoked, restored, err := flows.RevokeEach(changed.IPs, others)
	if err != nil || revoked != len(cut) || restored != 0 {
		t.Errorf("revoked %d, restored %d, %v; want %d", revoked, restored, err, len(cut))
	}
	close(answer)
	if err := <-done; err != nil {
		t.Error(err)
	}
	// What the other had read before may have been restored by it.
	if _, _, err := flows.RevokeListed(changed.IPs, others); err != nil {
		t.Error(err)
	}
	for _, c := range cut {
		if err := lab.Echo(c, []byte("revoked"), 300*time.Millisecond); err == nil {
			t.Errorf("%s -> %s goes on", c.LocalAddr(), c.RemoteAddr())
		}
	}
	for _, c := range kept {
		if err := lab.Echo(c, []byte("kept"), 3*time.Second); err != nil {
			t.Error(err)
		}
	}
}

// BenchmarkRevoke measures how long it takes to judge the flows of a pod whose policy has
// changed, by those that another pod has: all of them, or the pod's.
func BenchmarkRevoke(b *testing.B) {
	for _, n := range []int{0, 25_000, 230_000} {
		l := check.Value(lab.New(lab.Options{}))(b)
		node := check.Value(l.AddNode("node", netip.MustParseAddr("192.0.2.1")))(b)
		flows := check.Value(kernel.OpenFlows(kernel.Options{NetNS: node.NetNS()}, 1))(b)
		if err := node.Do(func() error { return track(n) }); err != nil {
			b.Fatal(err)
		}
		m := policy.NewModel("node")
		m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}))
		addrs := []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}
		m.Apply(policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: "shop", Name: "web"}, Node: "node", IPs: addrs}))
		table := ruleset.Build(m.Intent(), ruleset.Options{RevokedMark: 1})
		judge := func(hook nft.HookPoint, p policy.Packet) bool {
			return table.Trace(hook, nft.TracePacket{Packet: p, State: nft.New}).Verdict == nft.Accept
		}
		if have := check.Value(flows.Entries())(b); int(have) != n {
			b.Fatalf("%d flows, not %d", have, n)
		}
		b.Run(fmt.Sprintf("flows=%d/all", n), func(b *testing.B) {
			before := cpuTime(b)
			for b.Loop() {
				if _, _, err := flows.Revoke(judge); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuTime(b)-before)/1e6/float64(b.N), "cpu-ms/op")
		})
		b.Run(fmt.Sprintf("flows=%d/of-the-pod", n), func(b *testing.B) {
			before := cpuTime(b)
			for b.Loop() {
				if _, _, err := flows.RevokeOf(addrs, judge); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuTime(b)-before)/1e6/float64(b.N), "cpu-ms/op")
		})
		b.StopTimer()
		if err := flows.Close(); err != nil {
			b.Error(err)
		}
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	}
}
