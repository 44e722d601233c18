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

	folder := t.TempDir()
	check.NoError(t, os.WriteFile(filepath.Join(folder, "cluster.yaml"), []byte(cluster), 0o644))
	o := agent.Options{
		Node: "node", Manifests: folder, MetricsAddress: "0", HealthAddress: "0", Ruleset: ruleset.Options{RevokedMark: 1 << 29, LogGroup: 28774},
		Registry: prometheus.NewRegistry(), Log: logr.Discard(),
	}
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
	return a, client, node
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

// TestForgedSourcesHideNobody: whoever sends to one isolated pod from more sources than the kernel keeps account of
// hides only what else that pod is denied: what another pod is denied is told.
func TestForgedSourcesHideNobody(t *testing.T) {
	a, client, node := fencedPods(t)
	stranger := check.Value(node.AddPod("stranger", lab.PodOptions{IPs: []netip.Addr{netip.MustParseAddr("10.0.0.6")}}))(t)
	forged := policy.Packet{Protocol: policy.UDP, Dst: netip.MustParseAddr("10.0.0.4"), DstPort: 81}
	for i := range 70_000 {
		forged.Src = netip.AddrFrom4([4]byte{172, 16 + byte(i>>16), byte(i >> 8), byte(i)})
		check.NoError(t, stranger.Send(check.Value(lab.Craft(forged, 1000, nil))(t)))
	}
	toServer := 0
	for f, number := a.Flows.Get(0); f != nil; f, number = a.Flows.Get(number + 1) {
		if f.Direction == flows.Ingress && f.Destination.Pod == "server" {
			toServer++
		}
	}
	if toServer == 0 {
		t.Error("of the forged packets none is told")
	}
	if err := client.Exchange(policy.TCP, netip.MustParseAddrPort("10.0.0.4:82"), 300*time.Millisecond); err == nil {
		t.Fatal("it is not denied")
	}
	check.Eventually(t, 5*time.Second, "the client's denial", check.Holds(func() bool {
		for f, number := a.Flows.Get(0); f != nil; f, number = a.Flows.Get(number + 1) {
			if f.Source.Pod == "client" && f.Destination.Port == 82 {
				return true
			}
		}
		return false
	}))
	t.Logf("of 70,000 forged packets %d were told", toServer)
}
