package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podfence/podfence/agent"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/logbook"
	"github.com/podfence/podfence/test/random"
	"github.com/podfence/podfence/test/steady"
)

// unowned is an agent in this process whose table is nobody's own, as on kernels
// before 6.9: what others do to it is not refused.
type unowned struct {
	*agent.Agent
	log    *logbook.Book
	cancel context.CancelFunc
	ended  chan error

	// mu guards when the table was replaced last, and when flows were judged last
	// after that.
	mu               sync.Mutex
	replaced, judged time.Time
	replacements     int
	listens          *kernel.Watch
	conn             *kernel.Conn
	flows            *kernel.Flows
	links            *node.PodLinks
}

// startUnowned runs one on the world's node, until stop. The objects come from an API
// server, or from a folder of manifests.
func startUnowned(t *testing.T, w *world, api *rest.Config, manifests string) *unowned {
	t.Helper()
	u := &unowned{log: &logbook.Book{}, ended: make(chan error, 1)}
	options := kernel.Options{NetNS: w.lab.Node.NetNS(), Guard: true}
	var err error
	u.conn, err = kernel.Open(options)
	check.NoError(t, err)
	u.listens, err = u.conn.Watch(options)
	check.NoError(t, err)
	u.flows, err = kernel.OpenFlows(options, revokedMark)
	check.NoError(t, err)
	check.NoError(t, w.lab.Node.Do(func() error { u.links, err = node.OpenPodLinks(); return err }))
	u.Agent, err = agent.New(timedKernel{u}, agent.Options{
		Node: random.Node, API: api, Manifests: manifests, MetricsAddress: "0", HealthAddress: "0",
		Flows: timedFlows{u}, Watch: u.listens, Ruleset: ruleset.Options{RevokedMark: revokedMark, LogGroup: nflogGroup, Links: true}, PodLinks: u.links,
		Registry: prometheus.NewRegistry(), Log: u.log.Logger(),
	})
	check.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	u.cancel = cancel
	go func() { u.ended <- u.Start(ctx) }()
	check.Eventually(t, soon, "the first commit", func() error { return u.Enforcer.Ready() })
	return u
}

// stop ends the agent; the table stays.
func (u *unowned) stop() error {
	u.cancel()
	defer u.links.Close()
	return errors.Join(<-u.ended, u.listens.Close(), u.flows.Close(), u.conn.Close())
}

// timedKernel notes when a table has been replaced.
type timedKernel struct{ *unowned }

// Apply implements enforcer.Kernel.
func (k timedKernel) Apply(plan nft.Plan) error {
	err := k.conn.Apply(plan)
	if err == nil && plan.Replace && plan.Family == nft.Inet {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.replaced, k.judged = time.Now(), time.Time{}
		k.replacements++
	}
	return err
}

// Check implements enforcer.Kernel.
func (k timedKernel) Check(plan nft.Plan) error { return k.conn.Check(plan) }

// timedFlows notes when flows have been judged.
type timedFlows struct{ *unowned }

// Forget implements agent.Flows.
func (f timedFlows) Forget(addrs []netip.Addr) error { return f.flows.Forget(addrs) }

// Revoke implements agent.Flows.
func (f timedFlows) Revoke(judge func(nft.HookPoint, policy.Packet) bool) (revoked, restored int, err error) {
	begun := time.Now()
	revoked, restored, err = f.flows.Revoke(judge)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && f.judged.IsZero() && begun.After(f.replaced) {
		f.judged = time.Now()
	}
	return revoked, restored, err
}

// RevokeOf implements agent.Flows.
func (f timedFlows) RevokeOf(addrs []netip.Addr, judge func(nft.HookPoint, policy.Packet) bool) (revoked, restored int, err error) {
	return f.flows.RevokeOf(addrs, judge)
}

// awaitRepair waits for the nth replacement, and until flows have been judged by it. It
// returns when each was.
func (u *unowned) awaitRepair(t *testing.T, n int) (replaced, judged time.Time) {
	t.Helper()
	check.Eventually(t, soon, "the repair", func() error {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.replacements < n || u.judged.IsZero() {
			return fmt.Errorf("%d replacements, %d expected; flows were judged at %s", u.replacements, n, u.judged)
		}
		replaced, judged = u.replaced, u.judged
		return nil
	})
	return replaced, judged
}

// done is how often the table has been replaced.
func (u *unowned) done() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.replacements
}

// trackConnections has somebody else use connection tracking on the node too, whom no
// flush disturbs, as kube-proxy's iptables do. Without that the kernel stops tracking
// with podfence's last rule, and may take a flow of meanwhile for its own reverse
// when the rules are back (docs/RELIABILITY.md).
func (tr *trial) trackConnections() {
	tr.t.Helper()
	conn, err := kernel.Open(kernel.Options{NetNS: tr.lab.Node.NetNS(), Table: "tracking", Own: true})
	check.NoError(tr.t, err)
	tr.t.Cleanup(func() { check.NoError(tr.t, conn.Close()) })
	check.NoError(tr.t, conn.Apply(nft.Plan{Replace: true, Ops: []nft.Op{
		nft.AddChain{Name: "forward", Hook: &nft.Hook{Point: nft.Forward}},
		nft.SetRules{Chain: "forward", Rules: []nft.Rule{{Matches: []nft.Match{nft.Established}}}},
	}}))
}

// crowd is a cluster around steady traffic: that many pods on the other node, all of
// which open lets in.
func crowd(size int) (objects []runtime.Object) {
	ns, pods, policies := steady.Objects()
	objects = append(objects, ns)
	for _, node := range random.Nodes() {
		objects = append(objects, node)
	}
	for n := range size {
		addr := netip.AddrFrom4([4]byte{10, 245, byte(n >> 8), byte(n)}).String()
		pods = append(pods, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: steady.Namespace, Name: fmt.Sprintf("crowd-%d", n), Labels: map[string]string{"crowd": "yes"}},
			Spec:       corev1.PodSpec{NodeName: random.OtherNode, Containers: []corev1.Container{{Name: "main"}}},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: addr, PodIPs: []corev1.PodIP{{IP: addr}}},
		})
	}
	for _, np := range policies {
		if np.Name == steady.Open {
			np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{
				{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"crowd": "yes"}}},
			}})
		}
		objects = append(objects, np)
	}
	for _, pod := range pods {
		objects = append(objects, pod)
	}
	return objects
}

// writeManifests writes objects into a folder of the test's.
func writeManifests(t *testing.T, objects []runtime.Object) string {
	t.Helper()
	folder := t.TempDir()
	var all strings.Builder
	for _, object := range objects {
		kind := schema.GroupVersionKind{Version: "v1", Kind: strings.TrimPrefix(fmt.Sprintf("%T", object), "*v1.")}
		if kind.Kind == "NetworkPolicy" {
			kind.Group = networkingv1.GroupName
		}
		object.GetObjectKind().SetGroupVersionKind(kind)
		text, err := yaml.Marshal(object)
		check.NoError(t, err)
		fmt.Fprintf(&all, "---\n%s", text)
	}
	check.NoError(t, os.WriteFile(filepath.Join(folder, "cluster.yaml"), []byte(all.String()), 0o600))
	return folder
}
