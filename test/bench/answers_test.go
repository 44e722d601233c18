package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	api "github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/controllers/answers"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/quantiles"
	"github.com/podfence/podfence/test/scale"
)

// fenced is the node of the big cluster, enforced in a network namespace of its own, and its answers.
type fenced struct {
	enforcer *enforcer.Enforcer
	server   *answers.Server
}

func newFenced(b *testing.B, s scale.Size) *fenced {
	b.Helper()
	netns := newNode(b).NetNS()
	conn, err := kernel.Open(kernel.Options{NetNS: netns})
	must(b, err)
	reader, err := conn.OpenReader(kernel.Options{NetNS: netns})
	must(b, err)
	reports := report.New(report.Options{Node: scale.Node, Log: logr.Discard(), Registry: prometheus.NewRegistry()})
	f := &fenced{enforcer: enforcer.New(conn, enforcer.Options{Node: scale.Node, Ruleset: ruleset.Options{}})}
	f.server = answers.New(answers.Options{
		Node: scale.Node, Source: "api", Model: f.enforcer, Health: reports.Health, Problems: reports.Problems, Kernel: reader, Log: logr.Discard(),
	})
	for _, n := range s.Nodes() {
		f.enforcer.Feed(policy.SetNode(policy.NodeOf(n)))
	}
	for n := range s.Namespaces {
		f.enforcer.Feed(policy.SetNamespace(policy.NamespaceOf(scale.Namespace(n))))
	}
	for n := range s.Policies {
		parsed, _ := policy.Parse(s.Policy(n))
		f.enforcer.Feed(policy.SetPolicy(parsed))
	}
	for n := range s.Pods {
		if pod, ok := policy.PodOf(s.Pod(n)); ok {
			f.enforcer.Feed(policy.SetPod(pod))
		}
	}
	f.enforcer.Feed(policy.Synced())
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.enforcer.Start(ctx) }()
	b.Cleanup(func() {
		stop()
		must(b, <-ended)
		must(b, errors.Join(reader.Close(), conn.Close()))
	})
	must(b, f.enforcer.Sync(ctx))
	return f
}

func (f *fenced) ask(ctx context.Context, target string) (code int) {
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1"+target, nil)
	r.RemoteAddr = "127.0.0.1:40000"
	f.server.Handler().ServeHTTP(w, r)
	return w.Code
}

// question asks about a packet from a pod of another node to one of this node.
func question(s scale.Size) string {
	return fmt.Sprintf("%s?src=%s&dst=%s&protocol=tcp&port=8080", api.TracePath, s.Pod(1).Status.PodIP, s.Pod(0).Status.PodIP)
}

// BenchmarkAnswer is a status, what of it is done under the model's mutex, and a trace, at 100,000 pods.
func BenchmarkAnswer(b *testing.B) {
	s := scale.Big
	f := newFenced(b, s)
	b.Run("status", func(b *testing.B) {
		for b.Loop() {
			if code := f.ask(b.Context(), api.StatusPath); code != http.StatusOK {
				b.Fatal(code)
			}
		}
	})
	b.Run("counts", func(b *testing.B) {
		for b.Loop() {
			f.enforcer.Counts()
		}
	})
	b.Run("trace", func(b *testing.B) {
		for b.Loop() {
			began := time.Now()
			if code := f.ask(b.Context(), question(s)); code != http.StatusOK {
				b.Fatal(code)
			}
			b.StopTimer()
			time.Sleep(4 * time.Since(began)) // the server rests
			b.StartTimer()
		}
	})
}

// BenchmarkSuppose is what an answer takes at 100,000 pods to which connections would be cut by a new policy of one
// namespace: to suppose it, what of that is under the model's mutex, and to judge flows from as many pods
// of other nodes.
func BenchmarkSuppose(b *testing.B) {
	const flows = 10_000
	s := scale.Big
	f := newFenced(b, s)
	named, _ := policy.Parse(s.Policy(0))
	named.Rules[policy.Ingress] = nil
	b.Run("suppose", func(b *testing.B) {
		for b.Loop() {
			f.enforcer.Suppose(policy.SetPolicy(named))
		}
	})
	m := policy.NewModel(scale.Node)
	for n := range s.Namespaces {
		m.Apply(policy.SetNamespace(policy.NamespaceOf(scale.Namespace(n))))
	}
	for n := range s.Policies {
		m.Apply(policy.ChangeOf(s.Policy(n)))
	}
	for n := range s.Pods {
		m.Apply(policy.ChangeOf(s.Pod(n)))
	}
	b.Run("mutex", func(b *testing.B) {
		for b.Loop() {
			m.Excerpt()
		}
	})
	to := netip.MustParseAddr(s.Pod(0).Status.PodIP)
	b.Run("flows", func(b *testing.B) {
		for b.Loop() {
			supposed := f.enforcer.Suppose(policy.SetPolicy(named))
			for n := range flows {
				p := policy.Packet{Src: netip.MustParseAddr(s.Pod(n).Status.PodIP), Dst: to, Protocol: policy.TCP, DstPort: 8080, HopLimit: 64}
				supposed.WouldPass(nft.Forward, p)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/flows, "µs/flow")
	})
}

// BenchmarkAskers is the time from a pod's new address to the kernel, at 100,000 pods, by turns while nobody
// asks, and while a hundred ask without a pause.
func BenchmarkAskers(b *testing.B) {
	const turn = 50 // changes
	s := scale.Big
	f := newFenced(b, s)
	var alone, asked []float64
	for b.Loop() {
		alone = append(alone, f.changes(b, s, turn)...)
		ctx, stop := context.WithCancel(b.Context())
		var askers sync.WaitGroup
		for n := range 100 {
			askers.Go(func() { f.keepAsking(ctx, []string{api.StatusPath, question(s)}[n%2]) })
		}
		asked = append(asked, f.changes(b, s, turn)...)
		stop()
		askers.Wait()
	}
	quantiles.ReportMedian(b, "ms-alone", alone)
	quantiles.ReportMedian(b, "ms-asked", asked)
	b.ReportMetric(0, "ns/op")
}

// keepAsking asks until ctx is done, and as Retry-After says if too many do.
func (f *fenced) keepAsking(ctx context.Context, target string) {
	for ctx.Err() == nil {
		pause := 10 * time.Millisecond
		if f.ask(ctx, target) == http.StatusTooManyRequests {
			pause = time.Second
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// changes changes a pod's address so often, 5 ms apart, and returns how long each took to be in the kernel,
// in ms. The pod is of the namespace of the node's first pod, which takes what its namespace sends.
func (f *fenced) changes(b *testing.B, s scale.Size, count int) (took []float64) {
	for n := range count {
		pod := s.Pod(s.Namespaces)
		pod.Status.PodIP = fmt.Sprintf("10.200.0.%d", 1+n%2)
		pod.Status.PodIPs[0].IP = pod.Status.PodIP
		read, _ := policy.PodOf(pod)
		began := time.Now()
		f.enforcer.Feed(policy.SetPod(read))
		must(b, f.enforcer.Sync(b.Context()))
		took = append(took, float64(time.Since(began))/float64(time.Millisecond))
		time.Sleep(5 * time.Millisecond)
	}
	return took
}
