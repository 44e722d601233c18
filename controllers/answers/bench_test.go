package answers_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	api "github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/controllers/answers"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/test/scale"
)

// fenced is the node of the big cluster, enforced in a network namespace of its own, and its answers.
type fenced struct {
	enforcer *enforcer.Enforcer
	server   *answers.Server
}

// newNetNS is a network namespace, as a descriptor.
func newNetNS(b *testing.B) int {
	b.Helper()
	if os.Geteuid() != 0 {
		b.Skip("a network namespace of the benchmark's own needs root: skipped")
	}
	made := make(chan int)
	var err error
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd := -1
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		made <- fd
	}()
	fd := <-made
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func newFenced(b *testing.B, s scale.Size) *fenced {
	b.Helper()
	netns := newNetNS(b)
	conn, err := kernel.Open(kernel.Options{NetNS: netns})
	if err != nil {
		b.Fatal(err)
	}
	reader, err := conn.OpenReader(kernel.Options{NetNS: netns})
	if err != nil {
		b.Fatal(err)
	}
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
		if err := <-ended; err != nil {
			b.Error(err)
		}
		_, _ = reader.Close(), conn.Close()
	})
	if err := f.enforcer.Sync(ctx); err != nil {
		b.Fatal(err)
	}
	return f
}

func (f *fenced) ask(target string) (code int) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1"+target, nil)
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
			if code := f.ask(api.StatusPath); code != http.StatusOK {
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
			if code := f.ask(question(s)); code != http.StatusOK {
				b.Fatal(code)
			}
		}
	})
}

// BenchmarkLatency is the time from a pod's new address to the kernel, at 100,000 pods, while nobody asks, and
// while a hundred ask without a pause.
func BenchmarkLatency(b *testing.B) {
	s := scale.Big
	f := newFenced(b, s)
	for _, askers := range []int{0, 100} {
		b.Run(fmt.Sprintf("askers=%d", askers), func(b *testing.B) {
			ctx, stop := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			for n := range askers {
				target := []string{api.StatusPath, question(s)}[n%2]
				wg.Go(func() {
					for ctx.Err() == nil {
						if f.ask(target) == http.StatusTooManyRequests {
							time.Sleep(time.Second) // as Retry-After says
						}
						time.Sleep(10 * time.Millisecond)
					}
				})
			}
			n := 0
			for b.Loop() {
				// It is of the namespace of the node's first pod, which takes what its namespace sends.
				pod := s.Pod(s.Namespaces)
				n++
				pod.Status.PodIP = fmt.Sprintf("10.200.0.%d", 1+n%2)
				pod.Status.PodIPs[0].IP = pod.Status.PodIP
				read, _ := policy.PodOf(pod)
				f.enforcer.Feed(policy.SetPod(read))
				if err := f.enforcer.Sync(ctx); err != nil {
					b.Fatal(err)
				}
			}
			stop()
			wg.Wait()
		})
	}
}
