package controllers_test

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/test/recorder"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/podfence/podfence/cni/handshake"
)

// lag delivers nothing of one resource's watches from behind until caughtUp: all other
// requests, lists of that resource too, pass.
type lag struct {
	resource string
	mu       sync.Mutex
	held     chan struct{} // nil: everything passes
}

func (l *lag) behind() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = make(chan struct{})
	DeferCleanup(l.caughtUp)
}

func (l *lag) caughtUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held != nil {
		close(l.held)
		l.held = nil
	}
}

// guard returns a configuration whose requests go through the lag.
func (l *lag) guard(config *rest.Config) *rest.Config {
	guarded := rest.CopyConfig(config)
	guarded.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(request *http.Request) (*http.Response, error) {
			response, err := next.RoundTrip(request)
			if err == nil && strings.HasSuffix(request.URL.Path, "/"+l.resource) && request.URL.Query().Get("watch") != "" {
				response.Body = lagging{response.Body, l, request.Context()}
			}
			return response, err
		})
	})
	return guarded
}

// lagging is the body of a watch's response.
type lagging struct {
	io.ReadCloser
	lag *lag
	ctx context.Context
}

func (b lagging) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.lag.mu.Lock()
	held := b.lag.held
	b.lag.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-b.ctx.Done():
			return 0, b.ctx.Err()
		}
	}
	return n, err
}

// added is an agent whose watch of one resource may be behind, and that is asked to add a pod.
type added struct {
	*running
	*cluster
	kernel *recorder.Kernel
	watch  *lag
	socket string
}

func newAdded(resource string) *added {
	GinkgoHelper()
	dir := GinkgoT().TempDir()
	a := &added{cluster: newCluster(), kernel: &recorder.Kernel{}, watch: &lag{resource: resource}, socket: filepath.Join(dir, "agent.sock")}
	a.running = run(a.kernel, agent.Options{Node: a.node, API: a.watch.guard(agentUser), CNI: &agent.CNI{
		Socket: a.socket, State: filepath.Join(dir, "attachments"),
		Bridge: &enforcer.Bridge{Kernel: a.kernel, Gateway: func(p netip.Prefix) netip.Addr { return p.Addr().Next() }},
	}})
	a.awaitReady()
	return a
}

// add adds a pod.
func (a *added) add(ctx context.Context, pod *corev1.Pod) error {
	return handshake.Call(ctx, a.socket, handshake.Request{
		Op: handshake.OpAdd, ContainerID: "c1", IfName: "eth0", HostInterface: "pf1",
		Pod: handshake.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}, IPs: a.ips(2),
	})
}

// waits checks that an ADD waits for what is behind, and says so; and that it is answered when the
// watch has caught up.
func (a *added) waits(ctx context.Context, pod *corev1.Pod, behind string) {
	GinkgoHelper()
	short, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	Expect(a.add(short, pod)).To(MatchError(ContainSubstring(behind)))

	answered := make(chan error, 1)
	long, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	go func() { answered <- a.add(long, pod) }()
	Consistently(answered, while, often).ShouldNot(Receive())
	a.watch.caughtUp()
	Eventually(answered, soon, often).Should(Receive(BeNil()))
	Expect(a.metric("podfence_adds_total", "result=error")).To(BeEquivalentTo(1))
	Expect(a.metric("podfence_adds_total", "result=success")).To(BeEquivalentTo(1))
}

var _ = Describe("An ADD whose pod is known before its policies", func() {
	It("is answered when they are", func(ctx SpecContext) {
		a := newAdded("networkpolicies")
		a.namespace("shop", nil)
		a.watch.behind()
		a.policy("shop", "deny", "podSelector: {}\npolicyTypes: [Ingress, Egress]")
		pod := a.pod("shop", "web", nil)
		denied := func() bool {
			for _, plan := range a.kernel.Plans() {
				if strings.Contains(plan.Text(), "/deny") {
					return true
				}
			}
			return false
		}
		Expect(denied()).To(BeFalse(), "the watch is behind")
		a.waits(ctx, pod, "NetworkPolicy "+pod.Namespace+"/deny is there")
		Expect(denied()).To(BeTrue(), "answered before the policy was in the kernel")
	})

	It("is answered when the ClusterNetworkPolicies are", func(ctx SpecContext) {
		define("standard")
		a := newAdded(clusterPolicies)
		before := a.policies()
		a.namespace("shop", nil)
		a.watch.behind()
		clusterPolicy("v1beta1", "deny", denyToAll)
		a.waits(ctx, a.pod("shop", "web", nil), "ClusterNetworkPolicy deny is there")
		Expect(a.policies()).To(Equal(before+1), "answered before the policy was fed")
	})

	It("is answered when the Namespace is by whose labels ClusterNetworkPolicies choose", func(ctx SpecContext) {
		define("standard")
		a := newAdded("namespaces")
		shop := a.namespace("shop", nil)
		clusterPolicy("v1beta1", "deny", denyToAll)
		a.watch.behind()
		relabel(shop, set{"fenced": "yes"})
		a.waits(ctx, a.pod("shop", "web", nil), "Namespace "+shop.Name+" has changed")
	})

	It("is answered when the ClusterNetworkPolicies are, of a kind that has come just now", func(ctx SpecContext) {
		a := newAdded(clusterPolicies)
		before := a.policies()
		a.namespace("shop", nil)
		add, cancel := context.WithTimeout(ctx, soon)
		defer cancel()
		define("standard")
		clusterPolicy("v1beta1", "deny", denyToAll)
		Expect(a.add(add, a.pod("shop", "web", nil))).To(Succeed())
		Expect(a.policies()).To(Equal(before+1), "answered before the policy was fed")
	})
})
