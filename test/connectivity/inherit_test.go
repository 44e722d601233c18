package connectivity_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podfence/podfence/agent"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/lab"
)

// sealed lets nothing to or from the pods of namespace vault.
const sealed = `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: vault, name: sealed}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
`

// unjudged are flows that nobody comes to judge, as while very many others are gone through.
type unjudged struct{ agent.Flows }

func (unjudged) Revoke(func(nft.HookPoint, policy.Packet) bool) (revoked, restored int, err error) {
	return 0, 0, nil
}

func (unjudged) RevokeOf([]netip.Addr, func(nft.HookPoint, policy.Packet) bool) (revoked, restored int, err error) {
	return 0, 0, nil
}

// TestNewPodInheritsNoFlows: a pod gets the address of one whose flows go on, of which the
// agent knows nothing: not the last pod, not its end. Nothing of those flows reaches the new
// pod, nor passes that it sends on them, from its first packet on, though none is judged.
func TestNewPodInheritsNoFlows(t *testing.T) {
	c := newCluster(t, settings{nodes: 2, tiny: true, more: sealed})
	c.stop(0)
	c.options[0].Flows = func(f agent.Flows) agent.Flows { return unjudged{f} }
	c.start(0)
	client := c.pod("hall", 0, "client-1")[0]
	c.pod("hall", 0, "other-1", "other-2", "other-3") // all addresses of IPv4 but one
	leases, err := filepath.Glob(filepath.Join(c.options[0].Dir, "leases", "*", client.IPs[0].String()))
	if c.must(err); len(leases) != 1 {
		t.Fatalf("the client's lease is %v", leases)
	}
	c.must(os.WriteFile(filepath.Join(filepath.Dir(leases[0]), "fd00:10:244:1::7"), []byte("c-somebody\r\neth0"), 0o600)) // and of IPv6
	old := c.pod("hall", 0, "old-1")[0]
	c.services(c.nodes[0], old)
	addrs := old.IPs

	var toOld, fromOld []net.Conn
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
		for _, p := range []*pod{old, client} {
			_, err := p.Serve(protocol, allowedPort)
			c.must(err)
		}
		for i, addr := range addrs {
			toOld = append(toOld,
				c.converse(client.Host, protocol, netip.AddrPortFrom(addr, allowedPort)),
				c.converse(client.Host, protocol, netip.AddrPortFrom(serviceIPs(0)[i], servicePort)))
			fromOld = append(fromOld, c.converse(old.Host, protocol, netip.AddrPortFrom(client.IPs[i], allowedPort)))
		}
	}

	away := c.fences[0]
	c.stop(0)
	c.must(c.disconnect(away, old))
	c.must(os.Remove(filepath.Join(c.options[0].Dir, "attachments", old.Name+".eth0.json")))
	c.start(0)
	c.eventually("the next agent", func() error { return c.fences[0].Enforcer.Ready() })

	heir := c.add("vault", 0, "heir-1")[0]
	got := c.inheritance(heir.Host, client.IPs)
	var stop atomic.Bool
	var sending sync.WaitGroup
	sending.Go(func() {
		for ; !stop.Load(); time.Sleep(time.Millisecond) {
			for _, conn := range toOld {
				_ = conn.SetWriteDeadline(time.Now().Add(time.Millisecond))
				_, _ = conn.Write([]byte("go on"))
			}
		}
	})
	defer sending.Wait()
	defer stop.Store(true)
	c.must(c.connect(heir))
	if fmt.Sprint(heir.IPs) != fmt.Sprint(addrs) {
		t.Fatalf("the pod has %v, not the last one's %v", heir.IPs, addrs)
	}
	sent := c.inheritance(client.Host, addrs)
	c.must(goOn(heir.Host, toOld, fromOld))
	time.Sleep(time.Second) // TCP tries again after 200 ms, and after 400 ms more
	if n := got(); n != [2]int{} {
		t.Errorf("of the last pod's flows, %d packets of TCP and %d of UDP reach the new pod", n[0], n[1])
	}
	if n := sent(); n != [2]int{} {
		t.Errorf("on the last pod's flows, the new pod sends %d packets of TCP and %d of UDP", n[0], n[1])
	}
}

// converse begins a flow that has been answered.
func (c *cluster) converse(from *lab.Host, protocol policy.Protocol, to netip.AddrPort) net.Conn {
	c.t.Helper()
	conn, err := from.Dial(c.t.Context(), protocol, to)
	c.must(err)
	c.t.Cleanup(func() { conn.Close() })
	c.must(lab.Echo(conn, []byte("hello"), patience))
	return conn
}

// goOn has a pod send what the last one of its address would, on the flows that led there
// and on those that it had begun: datagrams, from the same ports to the same.
func goOn(heir *lab.Host, toOld, fromOld []net.Conn) error {
	send := func(from, to netip.AddrPort) error {
		return heir.Do(func() error {
			conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(to))
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write([]byte("go on"))
			return err
		})
	}
	for _, conn := range toOld {
		client, udp := conn.LocalAddr().(*net.UDPAddr)
		if !udp || conn.RemoteAddr().(*net.UDPAddr).Port != allowedPort {
			continue
		}
		if err := send(conn.RemoteAddr().(*net.UDPAddr).AddrPort(), client.AddrPort()); err != nil {
			return err
		}
	}
	for _, conn := range fromOld {
		own, udp := conn.LocalAddr().(*net.UDPAddr)
		if !udp {
			continue
		}
		if err := send(own.AddrPort(), conn.RemoteAddr().(*net.UDPAddr).AddrPort()); err != nil {
			return err
		}
	}
	return nil
}

// inheritance counts packets of TCP and UDP that come to a host from addresses.
func (c *cluster) inheritance(at *lab.Host, from []netip.Addr) func() [2]int {
	c.t.Helper()
	c.nft(at, fmt.Sprintf(`table inet inheritance {
		counter streams {}
		counter datagrams {}
		chain count {
			type filter hook prerouting priority raw;
			ip saddr %[1]s meta l4proto tcp counter name streams
			ip6 saddr %[2]s meta l4proto tcp counter name streams
			ip saddr %[1]s meta l4proto udp counter name datagrams
			ip6 saddr %[2]s meta l4proto udp counter name datagrams
		}
	}`, from[0], from[1]))
	return func() (all [2]int) {
		for i, name := range []string{"streams", "datagrams"} {
			text := c.nft(at, "list counter inet inheritance "+name)
			n, err := strconv.Atoi(packets.FindStringSubmatch(text)[1])
			c.must(err)
			all[i] = n
		}
		return all
	}
}

// TestNewPodInheritsNoFlowsChained: the same behind another plugin, which has led the address
// to the pod before anybody asks the agent: once that has answered, nothing of the flows goes
// on that are older than it.
func TestNewPodInheritsNoFlowsChained(t *testing.T) {
	if err := lab.Check(); err != nil {
		t.Skipf("skipped: %v", err)
	}
	l, err := lab.New(lab.Options{})
	c := &cluster{t: t, lab: l, folder: t.TempDir()}
	c.must(err)
	t.Cleanup(func() { c.must(l.Close()) })
	n, err := l.AddNode("node-1", nodeAddrs(0)...)
	c.must(err)
	c.nodes = append(c.nodes, n)
	connect := func(name string, last int) *lab.Host {
		h, err := n.AddPod(name, lab.PodOptions{IPs: []netip.Addr{
			netip.AddrFrom4([4]byte{10, 244, 1, byte(last)}), netip.MustParseAddr(fmt.Sprintf("fd00:10:244:1::%d", last)),
		}})
		c.must(err)
		return h
	}
	client, old := connect("client", 2), connect("old", 3)
	c.must(os.Mkdir(c.path("manifests"), 0o755))
	c.write("cluster.yaml", clusterYAML(settings{nodes: 1})+sealed)
	c.pods = []*pod{{Host: client, key: policy.Key{Namespace: "hall", Name: "client"}}, {key: policy.Key{Namespace: "vault", Name: "heir"}}}
	c.declare()
	var conns []net.Conn
	c.services(n, &pod{Host: old})
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
		_, err := old.Serve(protocol, allowedPort)
		c.must(err)
		for i, addr := range old.IPs {
			conns = append(conns, c.converse(client, protocol, netip.AddrPortFrom(addr, allowedPort)),
				c.converse(client, protocol, netip.AddrPortFrom(serviceIPs(0)[i], servicePort)))
		}
	}

	socket := c.path("agent.sock")
	c.chained(n, socket)
	ask := func(p *pod, ips []netip.Addr) error {
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		defer cancel()
		return handshake.Call(ctx, socket, handshake.Request{
			Op: handshake.OpAdd, ContainerID: "c-" + p.key.Name, IfName: "eth0", Mode: handshake.ModeChained, IPs: ips,
			Pod: handshake.Pod{Namespace: p.key.Namespace, Name: p.key.Name, UID: p.uid()},
		})
	}
	c.eventually("the agent", func() error { return ask(c.pods[0], client.IPs) })
	c.must(n.RemovePod("old"))
	heir := connect("heir", 3)
	c.must(ask(c.pods[1], heir.IPs))
	got := c.inheritance(heir, client.IPs)
	for range 100 {
		for _, conn := range conns {
			_ = conn.SetWriteDeadline(time.Now().Add(time.Millisecond))
			_, _ = conn.Write([]byte("go on"))
		}
		time.Sleep(time.Millisecond)
	}
	time.Sleep(time.Second) // TCP tries again after 200 ms, and after 400 ms more
	if n := got(); n != [2]int{} {
		t.Errorf("of the last pod's flows, %d packets of TCP and %d of UDP reach the new pod", n[0], n[1])
	}
}

// chained runs an agent behind another plugin, until the test ends. It judges no flows.
func (c *cluster) chained(n *lab.Node, socket string) {
	c.t.Helper()
	namespace := kernel.Options{NetNS: n.NetNS()}
	conn, err := kernel.Open(namespace)
	c.must(err)
	flows, err := kernel.OpenFlows(namespace, 1<<29)
	c.must(err)
	agent, err := agent.New(conn, agent.Options{
		Node: n.Name, Manifests: c.path("manifests"), MetricsAddress: "0", HealthAddress: "0",
		Flows: unjudged{flows}, Ruleset: ruleset.Options{RevokedMark: 1 << 29},
		Registry: prometheus.NewRegistry(), Log: logr.Discard(),
		CNI: &agent.CNI{Socket: socket, State: c.path("attachments")},
	})
	c.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- agent.Start(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		c.must(errors.Join(<-ended, flows.Close(), conn.Close()))
	})
}
