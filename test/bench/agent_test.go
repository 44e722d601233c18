package bench

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/test/agent"
	"github.com/podfence/podfence/test/scale"
)

// BenchmarkAgent is what the agent's process takes: resident memory when all has
// settled, the most it has taken since it started, and the time from its start
// until it enforces.
func BenchmarkAgent(b *testing.B) {
	for _, size := range append(sizes, scale.Size{Pods: 100_000, Namespaces: 1_000, Policies: 10_000}) {
		size.Local = min(size.Pods/20, 250)
		b.Run(sizeName(size), func(b *testing.B) {
			c := newCluster(b, size)
			must(b, build())
			for range b.N {
				start := time.Now()
				a := c.startAgent(b, newNode(b))
				b.ReportMetric(time.Since(start).Seconds(), "s-ready")
				// Some collections later; the runtime has one every two minutes at least.
				time.Sleep(30 * time.Second)
				usage, err := a.Usage()
				must(b, err)
				if folder := os.Getenv("PODFENCE_BENCH_PROFILES"); folder != "" {
					writeProfiles(b, a, filepath.Join(folder, fmt.Sprint("pods-", size.Pods)))
				}
				b.ReportMetric(float64(usage.Resident)/1e6, "MB-rss")
				b.ReportMetric(float64(usage.Peak)/1e6, "MB-peak")
				b.ReportMetric(0, "ns/op")
			}
		})
	}
}

// BenchmarkEvents is a rolling restart in a big cluster: a thousand events of
// pods a second, for a minute, and the delay of label changes meanwhile.
func BenchmarkEvents(b *testing.B) {
	const rate, lasts = 1000, time.Minute
	size := scale.Size{Pods: 20_000, Namespaces: 200, Policies: 2_000, Local: 100}
	b.Run(sizeName(size), func(b *testing.B) {
		c := newCluster(b, size)
		node := newNode(b)
		w := newWay(b, c, node)
		a := c.startAgent(b, node)
		c.admitFriends(b, w)
		for range b.N {
			var d delays
			before, err := a.Usage()
			must(b, err)
			start := time.Now()
			restarting := c.restart(size, rate, lasts)
			for time.Since(start) < lasts {
				must(b, w.measure(&d, func() error { return c.label("no") }, func() error { return c.label("yes") }))
			}
			events, err := restarting()
			must(b, err)
			took := time.Since(start)
			after, err := a.Usage()
			must(b, err)
			d.report(b)
			b.ReportMetric(float64(events)/took.Seconds(), "events/s")
			b.ReportMetric((after.CPU-before.CPU).Seconds()/took.Seconds(), "cores")
			b.ReportMetric(float64(after.Resident)/1e6, "MB-rss")
		}
	})
}

// restart deletes pods and creates others in their place, at a rate of events
// (a pod's deletion, its creation, its address). The function that it returns
// waits for the end, and says how many events there were.
func (c *cluster) restart(size scale.Size, rate int, lasts time.Duration) func() (int, error) {
	const eventsEach = 3
	var (
		done   sync.WaitGroup
		events atomic.Int64
		failed atomic.Pointer[error]
		next   = make(chan int)
	)
	for range 16 {
		done.Go(func() {
			for n := range next {
				if err := c.replace(size, n); err != nil {
					failed.Store(&err)
					continue
				}
				events.Add(eventsEach)
			}
		})
	}
	done.Go(func() {
		defer close(next)
		tick := time.NewTicker(time.Second * eventsEach / time.Duration(rate))
		defer tick.Stop()
		end := time.After(lasts)
		// The ticker drops ticks that come too late; what is due is counted.
		start := time.Now()
		for n := 0; ; {
			select {
			case <-end:
				return
			case now := <-tick.C:
				for due := int(now.Sub(start).Seconds() * float64(rate) / eventsEach); n < due; n++ {
					next <- n % size.Pods
				}
			}
		}
	})
	return func() (int, error) {
		done.Wait()
		if err := failed.Load(); err != nil {
			return 0, *err
		}
		return int(events.Load()), nil
	}
}

// replace is what a rollout does with the nth pod: it goes, and one of another
// name comes, with another address.
func (c *cluster) replace(size scale.Size, n int) error {
	pod := size.Pod(n)
	ctx := context.Background()
	none := int64(0)
	if err := c.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &none}); err != nil {
		return err
	}
	pod.Name += "-new"
	address := netip.MustParseAddr(pod.Status.PodIP).As4()
	address[3] += 100 // the nodes of the cluster have a hundred pods each
	pod.Status.PodIP = netip.AddrFrom4(address).String()
	pod.Status.PodIPs[0].IP = pod.Status.PodIP
	pod.Labels["pod-template-hash"] = fmt.Sprintf("%08x", ^uint32(n))
	return c.createPod(pod)
}

// writeProfiles keeps the agent's profiles, and what the kernel says of its
// memory.
func writeProfiles(b *testing.B, a *agent.Agent, folder string) {
	b.Helper()
	must(b, os.MkdirAll(folder, 0o755))
	for _, name := range []string{"heap", "allocs", "goroutine"} {
		profile, err := a.Profile(context.Background(), "/debug/pprof/"+name)
		must(b, err)
		must(b, os.WriteFile(filepath.Join(folder, name), profile, 0o644))
	}
	status, err := a.Proc("status")
	must(b, err)
	must(b, os.WriteFile(filepath.Join(folder, "status"), status, 0o644))
	metrics, err := a.Metrics(context.Background())
	must(b, err)
	for _, name := range slices.Sorted(maps.Keys(metrics)) {
		status = fmt.Appendf(status, "%s %.0f\n", name, metrics[name])
	}
	must(b, os.WriteFile(filepath.Join(folder, "status"), status, 0o644))
}
