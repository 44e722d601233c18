package agent_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
)

// cluster is two pods of which policies let the client out and the server be reached.
const cluster = `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec: {nodeName: node, containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: shop, labels: {app: server}}
spec: {nodeName: node, containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 10.0.0.4, podIPs: [{ip: 10.0.0.4}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out, namespace: shop}
spec: {podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: other}}}]}, {to: [{podSelector: {matchLabels: {app: server}}}], ports: [{port: 80}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: in, namespace: shop}
spec: {podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: 80}]}]}
`

// fencedPods are the two pods, on a node with a real agent, until the test ends.
func fencedPods(t *testing.T) (*agent.Agent, *lab.Host, *lab.Node) {
	t.Helper()
	if err := lab.Check(); err != nil {
		t.Skipf("skipped: %v", err)
	}
	l := check.Value(lab.New(lab.Options{}))(t)
	t.Cleanup(func() { check.NoError(t, l.Close()) })
	node := check.Value(l.AddNode("node", netip.MustParseAddr("192.0.2.1")))(t)
	pod := func(name, addr string) *lab.Host {
		return check.Value(node.AddPod(name, lab.PodOptions{IPs: []netip.Addr{netip.MustParseAddr(addr)}}))(t)
	}
	client, server := pod("client", "10.0.0.2"), pod("server", "10.0.0.4")
	check.Value(server.Serve(policy.TCP, 80))(t)
	check.NoError(t, node.SetSysctl("net/netfilter/nf_conntrack_acct", "0"))

	return fence(t, node, cluster, func(*agent.Options) {}), client, node
}

// fence runs a real agent on a node until the test ends, with the objects of a text, which it has in a folder.
func fence(t *testing.T, node *lab.Node, objects string, change func(*agent.Options)) *agent.Agent {
	t.Helper()
	folder := t.TempDir()
	check.NoError(t, os.WriteFile(filepath.Join(folder, "cluster.yaml"), []byte(objects), 0o644))
	o := agent.Options{
		Node: "node", Manifests: folder, MetricsAddress: "0", HealthAddress: "0", Ruleset: ruleset.Options{RevokedMark: 1 << 29, LogGroup: 28774},
		Registry: prometheus.NewRegistry(), Log: logr.Discard(),
	}
	change(&o)
	host := &agent.Host{NetNS: node.NetNS(), Connect: agent.ConnectNone}
	opened := check.Value(host.Open(&o))(t)
	a := check.Value(agent.New(opened.Kernel, o))(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- a.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		check.NoError(t, <-ended)
		check.NoError(t, opened.Close())
	})
	fenced, stopWaiting := context.WithTimeout(ctx, 30*time.Second)
	defer stopWaiting()
	check.NoError(t, a.Enforcer.SyncFirst(fenced))
	return a
}

// TestConnectionsAreObserved: of a real connection between two pods of a node, whoever observes is told by a
// real agent that it begins, in both directions with the rule, and that it ends, with what it has carried.
func TestConnectionsAreObserved(t *testing.T) {
	a, client, node := fencedPods(t)
	// to has the client talk to the server until that is observed, which takes a moment.
	to := netip.MustParseAddrPort("10.0.0.4:80")
	done := a.Flows.Observe()
	check.Eventually(t, 20*time.Second, "connections that are observed", func() error {
		if err := client.Exchange(policy.TCP, to, 5*time.Second); err != nil {
			return err
		}
		return check.Holds(func() bool { _, last := a.Flows.Bounds(); return last > 0 })()
	})
	check.NoError(t, node.FlushConntrack())
	var egress, ingress, over *flows.Flow
	find := func() bool {
		for from := uint64(0); ; {
			f, number := a.Flows.Get(from)
			if f == nil {
				return egress != nil && ingress != nil && over != nil
			}
			switch {
			case f.Event == flows.Ended && f.Packets > 0:
				over = f
			case f.Direction == flows.Egress:
				egress = f
			case f.Direction == flows.Ingress:
				ingress = f
			}
			from = number + 1
		}
	}
	check.Eventually(t, 20*time.Second, "flows of every kind", check.Holds(find))
	for direction, f := range map[flows.Direction]*flows.Flow{flows.Egress: egress, flows.Ingress: ingress} {
		name, rule := "out", 1
		if direction == flows.Ingress {
			name, rule = "in", 0
		}
		if len(f.Policies) != 1 || f.Policies[0].Name != name || f.Policies[0].Rule == nil || *f.Policies[0].Rule != rule {
			t.Errorf("%s: it is let pass by %+v", direction, f.Policies)
		}
		if f.Source.Pod != "client" || f.Destination.Pod != "server" || f.Destination.Port != 80 || f.Verdict != flows.Allowed || f.Event != flows.Began {
			t.Errorf("%s: %+v", direction, f)
		}
	}
	if over.Packets < 6 || over.Bytes < 6*52 || over.Source.Pod != "client" {
		t.Errorf("%+v", over)
	}

	done()
	allowed := func() (n int) {
		for f, number := a.Flows.Get(0); f != nil; f, number = a.Flows.Get(number + 1) {
			if f.Verdict == flows.Allowed {
				n++
			}
		}
		return n
	}
	check.Eventually(t, 20*time.Second, "an end of the observing", func() error {
		before := allowed()
		if err := client.Exchange(policy.TCP, to, 5*time.Second); err != nil {
			return err
		}
		time.Sleep(200 * time.Millisecond)
		if n := allowed() - before; n > 0 {
			return fmt.Errorf("nobody observes, and %d flows are told", n)
		}
		return nil
	})
}

// TestDenialsAreTold: of a real packet that a policy denies, a real agent tells at once and once, with the
// names of both ends, the reason and the policies; of what is allowed it tells nothing. Some seconds later it
// sums up how many more of them were denied.
func TestDenialsAreTold(t *testing.T) {
	a, client, _ := fencedPods(t)
	to := netip.MustParseAddrPort("10.0.0.4:81")
	for range 3 {
		if err := client.Exchange(policy.TCP, to, 300*time.Millisecond); err == nil {
			t.Fatal("it is not denied")
		}
	}
	check.NoError(t, client.Exchange(policy.TCP, netip.MustParseAddrPort("10.0.0.4:80"), 5*time.Second))
	time.Sleep(500 * time.Millisecond)
	if _, last := a.Flows.Bounds(); last != 1 {
		t.Fatalf("%d flows are told, want 1", last)
	}
	f, _ := a.Flows.Get(1)
	if f.Verdict != flows.Denied || f.Direction != flows.Egress || f.Reason != flows.DefaultDeny || f.Source.Pod != "client" ||
		f.Destination.Pod != "server" || f.Destination.Port != 81 || f.Protocol != "TCP" || f.TCPFlags != "SYN" || f.Node != "node" {
		t.Errorf("%+v", f)
	}
	if len(f.Policies) != 1 || f.Policies[0] != (flows.Policy{Kind: "NetworkPolicy", Tier: "NetworkPolicy", Namespace: "shop", Name: "out"}) {
		t.Errorf("by %+v", f.Policies)
	}
	if want := "NetworkPolicy shop/out spec.egress[1].ports[0]: port 81 is not in 80"; f.NearestMiss != want {
		t.Errorf("the near miss is %q instead of %q", f.NearestMiss, want)
	}
	var sum *flows.Flow
	check.Eventually(t, 15*time.Second, "a sum of the repeats", check.Holds(func() bool { sum, _ = a.Flows.Get(2); return sum != nil }))
	same := *sum
	same.Time, same.Repeats, same.Source.Port = f.Time, 0, f.Source.Port
	if sum.Repeats < 2 || sum.Repeats > 5 || !reflect.DeepEqual(&same, f) { // each attempt sends a SYN or two
		t.Errorf("%+v", sum)
	}
}

// TestForgedSourcesHideNobody: whoever sends to one isolated pod from more sources than the kernel keeps account of,
// be it datagrams or TCP segments that begin no connection, hides only what else that pod is denied: what another pod
// is denied is told.
func TestForgedSourcesHideNobody(t *testing.T) {
	for protocol, craft := range map[policy.Protocol]func(policy.Packet) ([]byte, error){policy.UDP: datagram, policy.TCP: ack} {
		t.Run(protocol.String(), func(t *testing.T) {
			a, client, node := fencedPods(t)
			stranger := check.Value(node.AddPod("stranger", lab.PodOptions{IPs: []netip.Addr{netip.MustParseAddr("10.0.0.6")}}))(t)
			forged := policy.Packet{Protocol: protocol, Dst: netip.MustParseAddr("10.0.0.4"), DstPort: 81}
			for i := range 70_000 {
				forged.Src = netip.AddrFrom4([4]byte{172, 16 + byte(i>>16), byte(i >> 8), byte(i)})
				check.NoError(t, stranger.Send(check.Value(craft(forged))(t)))
			}
			toServer := len(told(a, func(f *flows.Flow) bool { return f.Direction == flows.Ingress && f.Destination.Pod == "server" }))
			if toServer == 0 {
				t.Error("of the forged packets none is told")
			}
			if err := client.Exchange(policy.TCP, netip.MustParseAddrPort("10.0.0.4:82"), 300*time.Millisecond); err == nil {
				t.Fatal("it is not denied")
			}
			awaitDenial(t, a, 82)
			t.Logf("of 70,000 forged packets %d were told", toServer)
		})
	}
}

// TestFloodHidesNobody: whoever floods an isolated pod from one address, each packet to another port, hides nothing
// but more of its own, even of what that pod is denied to others.
func TestFloodHidesNobody(t *testing.T) {
	a, _, node := fencedPods(t)
	pod := func(name, addr string) *lab.Host {
		return check.Value(node.AddPod(name, lab.PodOptions{IPs: []netip.Addr{netip.MustParseAddr(addr)}}))(t)
	}
	flooder, other := pod("flooder", "10.0.0.6"), pod("other", "10.0.0.8")
	sent := 0
	flood := func() {
		packet := policy.Packet{Protocol: policy.UDP, Src: netip.MustParseAddr("10.0.0.6"), Dst: netip.MustParseAddr("10.0.0.4"), DstPort: uint16(10_000 + sent%50_000)}
		check.NoError(t, flooder.Send(check.Value(datagram(packet))(t)))
		sent++
	}
	for began := time.Now(); time.Since(began) < 2*time.Second; {
		flood()
	}
	for port := range uint16(20) { // each once, in the middle of the flood: no second attempt hides that the first is not told
		for range 100 {
			flood()
		}
		packet := policy.Packet{Protocol: policy.UDP, Src: netip.MustParseAddr("10.0.0.8"), Dst: netip.MustParseAddr("10.0.0.4"), DstPort: 83 + port}
		check.NoError(t, other.Send(check.Value(datagram(packet))(t)))
	}
	for port := range uint16(20) {
		awaitDenial(t, a, 83+port)
	}
	const most = 200 + 100*10 // at once, and in as many seconds as this may take at most
	if n := len(told(a, func(f *flows.Flow) bool { return f.Source.IP == netip.MustParseAddr("10.0.0.6") })); n == 0 || n > most {
		t.Errorf("of %d packets of the flood %d are told, and not from 1 to %d", sent, n, most)
	}
}

func datagram(p policy.Packet) ([]byte, error) { return lab.Craft(p, 1000, nil) }

// ack is a segment with the flag ACK alone, which begins no connection.
func ack(p policy.Packet) ([]byte, error) {
	segment, err := lab.Craft(p, 1000, nil)
	if err != nil {
		return nil, err
	}
	const header, flags = 20, 13
	segment[header+flags] = 0x10
	lab.Checksum(p, segment[header:])
	return segment, nil
}

// told are flows that were told and of which something holds.
func told(a *agent.Agent, of func(*flows.Flow) bool) (all []*flows.Flow) {
	for f, number := a.Flows.Get(0); f != nil; f, number = a.Flows.Get(number + 1) {
		if of(f) {
			all = append(all, f)
		}
	}
	return all
}

// awaitDenial waits until it is told that something was denied that was for a port.
func awaitDenial(t *testing.T, a *agent.Agent, port uint16) {
	t.Helper()
	check.Eventually(t, 5*time.Second, fmt.Sprintf("the denial at port %d", port), check.Holds(func() bool {
		return len(told(a, func(f *flows.Flow) bool { return f.Destination.Port == port && f.Repeats == 0 })) > 0
	}))
}
