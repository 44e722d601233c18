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

var _ = Describe("An ADD whose pod is known before its policies", func() {
	It("is answered when they are", func(ctx SpecContext) {
		c := newCluster()
		c.namespace("shop", nil)
		watch := &lag{resource: "networkpolicies"}
		kernel := &recorder.Kernel{}
		dir := GinkgoT().TempDir()
		socket := filepath.Join(dir, "agent.sock")
		started := run(kernel, agent.Options{Node: c.node, API: watch.guard(agentUser), CNI: &agent.CNI{
			Socket: socket, State: filepath.Join(dir, "attachments"),
			Bridge: &enforcer.Bridge{Kernel: kernel, Gateway: func(p netip.Prefix) netip.Addr { return p.Addr().Next() }},
		}})
		started.awaitReady()
		watch.behind()
		c.policy("shop", "deny", "podSelector: {}\npolicyTypes: [Ingress, Egress]")
		pod := c.pod("shop", "web", nil)
		add := func(ctx context.Context) error {
			return handshake.Call(ctx, socket, handshake.Request{
				Op: handshake.OpAdd, ContainerID: "c1", IfName: "eth0", HostInterface: "pf1",
				Pod: handshake.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}, IPs: c.ips(2),
			})
		}
		denied := func() bool {
			for _, plan := range kernel.Plans() {
				if strings.Contains(plan.Text(), "/deny") {
					return true
				}
			}
			return false
		}
		short, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		Expect(add(short)).To(MatchError(ContainSubstring("NetworkPolicy " + pod.Namespace + "/deny is there")))
		Expect(denied()).To(BeFalse(), "the watch is behind")

		answered := make(chan error, 1)
		long, cancel := context.WithTimeout(ctx, soon)
		defer cancel()
		go func() { answered <- add(long) }()
		Consistently(answered, while, often).ShouldNot(Receive())
		watch.caughtUp()
		Eventually(answered, soon, often).Should(Receive(BeNil()))
		Expect(denied()).To(BeTrue(), "answered before the policy was in the kernel")
		Expect(started.metric("podfence_adds_total", "result=error")).To(BeEquivalentTo(1))
		Expect(started.metric("podfence_adds_total", "result=success")).To(BeEquivalentTo(1))
	})
})
