package kernel_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
)

// bounded is a node whose pods may begin so many connections each; 0: as they like.
func bounded(t testing.TB, limit uint32) (node *lab.Node, pods map[string]*lab.Host, conn *kernel.Conn) {
	t.Helper()
	if err := lab.Check(); err != nil {
		t.Skipf("skipped: %v", err)
	}
	l := check.Value(lab.New(lab.Options{}))(t)
	t.Cleanup(func() { l.Close() })
	node = check.Value(l.AddNode("node", netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")))(t)
	m := policy.NewModel("node")
	m.Apply(policy.SetNamespace(policy.Namespace{Name: "shop"}))
	pods = map[string]*lab.Host{}
	for i, name := range []string{"client", "server", "other"} {
		ips := []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(2 + i)}), netip.MustParseAddr(fmt.Sprintf("fd00::%d", 2+i))}
		pods[name] = check.Value(node.AddPod(name, lab.PodOptions{IPs: ips}))(t)
		m.Apply(policy.SetPod(&policy.Pod{Key: policy.Key{Namespace: "shop", Name: name}, Node: "node", IPs: ips}))
	}
	conn = check.Value(kernel.Open(kernel.Options{NetNS: node.NetNS(), MaxConnections: true}))(t)
	t.Cleanup(func() { conn.Close() })
	if err := conn.Apply(ruleset.Build(m.Intent(), ruleset.Options{MaxConnections: limit}).Replacement()); err != nil {
		t.Fatal(err)
	}
	return node, pods, conn
}

// TestConnectionsOfAPod: a pod begins as many connections as it may, to pods and to its node,
// and no more until some have ended; those that it has go on, and others have their own bound,
// of which what they begin with the pod is.
func TestConnectionsOfAPod(t *testing.T) {
	const limit = 20
	g := NewWithT(t)
	node, pods, conn := bounded(t, limit)
	client, server, other := pods["client"], pods["server"], pods["other"]
	for _, host := range []*lab.Host{client, server, &node.Host} {
		check.Value(host.Serve(policy.UDP, 80))(t)
		check.Value(host.Serve(policy.TCP, 80))(t)
	}
	begin := func(from *lab.Host, protocol policy.Protocol, to netip.Addr, patience time.Duration) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c, err := from.Dial(ctx, protocol, netip.AddrPortFrom(to, 80))
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { c.Close() })
		return c, lab.Echo(c, []byte("one more"), patience)
	}
	const soon, never = 5 * time.Second, 150 * time.Millisecond
	nodeAddrs := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	for i, to := range server.IPs {
		var begun []net.Conn
		for n := range limit {
			protocol := []policy.Protocol{policy.UDP, policy.TCP}[n%2]
			c, err := begin(client, protocol, to, soon)
			g.Expect(err).NotTo(HaveOccurred(), "connection %d of %d", n+1, limit)
			begun = append(begun, c)
		}
		for _, where := range []netip.Addr{to, nodeAddrs[i], to} {
			for _, protocol := range []policy.Protocol{policy.UDP, policy.TCP} {
				_, err := begin(client, protocol, where, never)
				g.Expect(err).To(HaveOccurred(), "one more, %s to %s", protocol, where)
			}
		}
		for _, c := range begun {
			g.Expect(lab.Echo(c, []byte("it goes on"), soon)).To(Succeed())
		}
		for range limit * 3 / 4 {
			for _, from := range []*lab.Host{other, server} {
				_, err := begin(from, policy.UDP, client.IPs[i], soon)
				g.Expect(err).NotTo(HaveOccurred(), "%s begins one with the pod", from)
			}
		}
	}
	counters := check.Value(conn.OpenCounters(kernel.Options{NetNS: node.NetNS()}))(t)
	defer counters.Close()
	drops, err := counters.Drops(ruleset.DropChains[:]...)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(drops).To(HaveKeyWithValue("the pod has too many connections", BeNumerically(">=", 12)))

	// When they have ended there is room again.
	g.Expect(node.FlushConntrack()).To(Succeed())
	for _, to := range server.IPs {
		g.Eventually(func() error { _, err := begin(client, policy.UDP, to, never); return err }, time.Minute).Should(Succeed())
	}
}

// TestOneWayIsOneConnection: a stream of datagrams that nobody answers is one connection,
// however many they are. (Linux 5.19 to 6.17 count each that is not the first, if asked to.)
func TestOneWayIsOneConnection(t *testing.T) {
	g := NewWithT(t)
	_, pods, _ := bounded(t, 20)
	client, server := pods["client"], pods["server"]
	check.Value(server.Serve(policy.UDP, 80))(t)
	silent := check.Value(client.Dial(t.Context(), policy.UDP, netip.AddrPortFrom(server.IPs[0], 9)))(t)
	defer silent.Close()
	for range 2000 {
		_, _ = silent.Write([]byte("is anybody there?")) // a router may say that there is not
	}
	c := check.Value(client.Dial(t.Context(), policy.UDP, netip.AddrPortFrom(server.IPs[0], 80)))(t)
	defer c.Close()
	g.Expect(lab.Echo(c, []byte("one more"), 5*time.Second)).To(Succeed())
}

// BenchmarkNewConnections measures what the bound costs a pod's new connection, by how many
// the pod has: a datagram each, from the system call to the other pod.
func BenchmarkNewConnections(b *testing.B) {
	const many = 1 << 30
	for _, c := range []struct {
		name  string
		limit uint32
		has   int
	}{
		{"bound=none/has=0", 0, 0}, {"bound=none/has=10000", 0, 10_000},
		{"bound=many/has=0", many, 0}, {"bound=many/has=1000", many, 1000}, {"bound=many/has=10000", many, 10_000},
		{"bound=many/has=30000", many, 30_000}, {"bound=1000/over", 1000, 30_000},
	} {
		b.Run(c.name, func(b *testing.B) {
			_, pods, _ := bounded(b, c.limit)
			client, server := pods["client"], pods["server"]
			quiet := exec.Command("nft", "-f", "-")
			quiet.Stdin = strings.NewReader("table ip quiet { chain c { type filter hook prerouting priority raw; drop; }; }")
			if err := server.Do(quiet.Run); err != nil {
				b.Fatal(err)
			}
			next := 0
			var fds []int
			begin := func() {
				if next/60_000 == len(fds) {
					var fd int
					if err := client.Do(func() (err error) {
						fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
						return err
					}); err != nil {
						b.Fatal(err)
					}
					b.Cleanup(func() { unix.Close(fd) })
					fds = append(fds, fd)
				}
				err := unix.Sendto(fds[len(fds)-1], []byte{1}, 0, &unix.SockaddrInet4{Port: 1 + next%60_000, Addr: server.IPs[0].As4()})
				if err != nil {
					b.Fatal(err)
				}
				next++
			}
			for range c.has {
				begin()
			}
			before := cpuTime(b)
			for b.Loop() {
				begin()
			}
			b.ReportMetric(float64(cpuTime(b)-before)/1e3/float64(b.N), "cpu-µs/op")
		})
	}
}
