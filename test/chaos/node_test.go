package chaos

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/podfence/podfence/agent"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/random"
)

// fedNode is a node of a lab with an agent in this process, which the test feeds as
// the watches would: what the API server takes to tell it is not in the times.
type fedNode struct {
	*lab.Node
	agent *agent.Agent
	flows *watchedFlows
}

// watchedFlows are the node's flows, and when they were judged last.
type watchedFlows struct {
	agent.Flows
	mu      sync.Mutex
	revoked int
	judged  time.Time
}

// Revoke implements agent.Flows.
func (f *watchedFlows) Revoke(judge func(nft.HookPoint, policy.Packet) bool) (revoked, restored int, err error) {
	revoked, restored, err = f.Flows.Revoke(judge)
	f.note(revoked)
	return revoked, restored, err
}

// RevokeOf implements agent.Flows.
func (f *watchedFlows) RevokeOf(addrs []netip.Addr, judge func(nft.HookPoint, policy.Packet) bool) (revoked, restored int, err error) {
	revoked, restored, err = f.Flows.RevokeOf(addrs, judge)
	f.note(revoked)
	return revoked, restored, err
}

// note counts revoked flows.
func (f *watchedFlows) note(revoked int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.revoked += revoked; revoked > 0 {
		f.judged = time.Now()
	}
}

// take returns how many flows have been revoked since it was called last, and when the
// last of them was.
func (f *watchedFlows) take() (revoked int, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	revoked, f.revoked = f.revoked, 0
	return revoked, f.judged
}

// count is how many flows take would return.
func (f *watchedFlows) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.revoked
}

// newFedNode makes the node that random clusters have, in a lab of its own, with both
// its pod ranges closed.
func newFedNode(t *testing.T) *fedNode {
	t.Helper()
	const mark = 1 << 29 // the agent's default
	ctrl.SetLogger(logr.Discard())
	l := check.Value(lab.New(lab.Options{}))(t)
	t.Cleanup(func() { check.NoError(t, l.Close()) })
	n := &fedNode{Node: check.Value(l.AddNode(random.Node, random.NodeAddrs...))(t)}
	namespace := kernel.Options{NetNS: n.NetNS()}
	conn := check.Value(kernel.Open(namespace))(t)
	flows := check.Value(kernel.OpenFlows(namespace, mark))(t)
	n.flows = &watchedFlows{Flows: flows}
	n.agent = check.Value(agent.New(conn, agent.Options{
		Node: n.Name, Manifests: t.TempDir(), MetricsAddress: "0", HealthAddress: "0", Flows: n.flows,
		Ruleset: ruleset.Options{RevokedMark: mark}, Registry: prometheus.NewRegistry(), Log: logr.Discard(),
	}))(t)
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- n.agent.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		check.NoError(t, <-stopped)
		check.NoError(t, flows.Close())
		check.NoError(t, conn.Close())
	})
	for _, node := range random.Nodes() {
		n.feed(random.Event{Object: node})
	}
	n.sync(t)
	return n
}

// feed tells the agent of changes, all at once.
func (n *fedNode) feed(events ...random.Event) {
	n.agent.Enforcer.Feed(random.Changes(events)...)
}

// sync waits until all that was fed is in the kernel.
func (n *fedNode) sync(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	check.NoError(t, n.agent.Enforcer.Sync(ctx))
}

func namespaceOf(name string, labels map[string]string) random.Event {
	return random.Event{Object: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}}
}

// podAt is a running pod of the node with these addresses.
func podAt(namespace, name, uid string, labels map[string]string, started time.Time, ips ...netip.Addr) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID(uid), Labels: labels, CreationTimestamp: metav1.NewTime(started),
		},
		Spec:   corev1.PodSpec{NodeName: random.Node},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &metav1.Time{Time: started}},
	}
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip.String()})
	}
	return p
}

func policyOf(t *testing.T, namespace, name, spec string) random.Event {
	t.Helper()
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	check.NoError(t, yaml.UnmarshalStrict([]byte(spec), &np.Spec))
	return random.Event{Object: np}
}
