package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/test/agent"
	"github.com/podfence/podfence/test/quantiles"
	"github.com/podfence/podfence/test/scale"
)

// BenchmarkAgent is what the agent's process takes: resident memory when all has
// settled, the most it has taken since it started, and the time from its start
// until it enforces. It starts several times, for the spread of each.
func BenchmarkAgent(b *testing.B) {
	const starts = 2
	type load struct {
		scale.Size
		above int // ClusterNetworkPolicies
	}
	var loads []load
	for _, size := range sizes {
		loads = append(loads, load{size, 0})
	}
	wide := scale.Size{Pods: 20_000, Namespaces: 1_000, Policies: 2_000}
	loads = append(loads, load{scale.Size{Pods: 100_000, Namespaces: 1_000, Policies: 10_000}, 0}, load{wide, 0}, load{wide, 100})
	for _, l := range loads {
		size := l.Size
		size.Local = min(size.Pods/20, 250)
		name := sizeName(size)
		if size.Namespaces == wide.Namespaces && size.Pods == wide.Pods {
			name = fmt.Sprintf("%s/namespaces=%d/cluster-policies=%d", name, size.Namespaces, l.above)
		}
		b.Run(name, func(b *testing.B) {
			c := newCluster(b, size)
			c.createClusterPolicies(b, l.above)
			must(b, build())
			node := newNode(b)
			var ready, resident, peak []float64
			for range b.N * starts {
				start := time.Now()
				a := c.startAgent(b, node)
				ready = append(ready, time.Since(start).Seconds())
				time.Sleep(15 * time.Second) // some collections later
				usage, err := a.Usage()
				must(b, err)
				if profiles != "" {
					writeProfiles(b, a, filepath.Join(profiles, fmt.Sprint("pods-", size.Pods)))
				}
				resident, peak = append(resident, float64(usage.Resident)/1e6), append(peak, float64(usage.Peak)/1e6)
				must(b, a.Stop())
			}
			quantiles.ReportMedian(b, "s-ready", ready)
			quantiles.ReportMedian(b, "MB-rss", resident)
			quantiles.ReportMedian(b, "MB-peak", peak)
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkEvents is a rolling restart in a big cluster: a thousand events of
// pods a second, for a minute, and the delay of label changes meanwhile, from the
// event on. The load comes from a replay.
func BenchmarkEvents(b *testing.B) {
	const rate, lasts = 1000, time.Minute
	size := scale.Size{Pods: 20_000, Namespaces: 200, Policies: 2_000, Local: 100}
	b.Run(sizeName(size), func(b *testing.B) {
		// All but its pods, which the replay has.
		c := newCluster(b, scale.Size{Namespaces: size.Namespaces, Policies: size.Policies})
		nodes := size.Nodes()[1:]
		each(b, len(nodes), func(n int) error { return c.createNode(nodes[n]) })
		r := newReplay(b, c.config)
		for n := range size.Pods {
			r.set(size.Pod(n))
		}
		node := newNode(b)
		w := newWay(b, c, node)
		label := func(value string) func() error {
			return func() error {
				client := podOfWay("client", clientIP)
				client.Labels["friend"] = value
				r.set(client)
				return nil
			}
		}
		must(b, label("yes")())
		r.set(podOfWay("server", serverIP))
		c.kubeconfig = r.kubeconfig
		a := c.startAgent(b, node)
		c.admitFriends(b, w, label("no"), label("yes"))
		var d delays
		var rates, cores, resident, commits []float64
		for range b.N {
			profiled := profileCPU(b, a, "events-cpu")
			before, err := a.Usage()
			must(b, err)
			metrics, err := a.Metrics(context.Background())
			must(b, err)
			start := time.Now()
			restarted := make(chan int, 1)
			go func() { restarted <- r.restart(size, rate, lasts) }()
			for time.Since(start) < lasts {
				must(b, w.measure(&d, label("no"), label("yes")))
			}
			events := <-restarted
			took := time.Since(start).Seconds()
			after, err := a.Usage()
			must(b, err)
			now, err := a.Metrics(context.Background())
			must(b, err)
			rates = append(rates, float64(events)/took)
			cores = append(cores, (after.CPU-before.CPU).Seconds()/took)
			resident = append(resident, float64(after.Resident)/1e6)
			commits = append(commits, (now["podfence_commits_total"]-metrics["podfence_commits_total"])/took)
			must(b, <-profiled)
		}
		d.report(b, "")
		quantiles.ReportMedian(b, "events/s", rates)
		quantiles.ReportMedian(b, "cores", cores)
		quantiles.ReportMedian(b, "MB-rss", resident)
		quantiles.ReportMedian(b, "commits/s", commits)
	})
}

// restart replaces pods by new ones, at a rate of events: a pod's deletion, the
// creation of another, its address. It returns how many events there were.
func (r *replay) restart(size scale.Size, rate int, lasts time.Duration) (events int) {
	const eventsEach = 3
	start := time.Now()
	for time.Since(start) < lasts {
		for due := int(time.Since(start).Seconds() * float64(rate)); events < due; events += eventsEach {
			n := events / eventsEach % size.Pods
			old, created := size.Pod(n), size.Pod(n)
			// The cluster's other nodes have a hundred pods each: there is room above.
			address := netip.MustParseAddr(old.Status.PodIP).As4()
			if again := events/eventsEach/size.Pods%2 == 1; again {
				old.Name += "-new"
			} else {
				created.Name += "-new"
				address[3] += 100
			}
			created.UID += types.UID(fmt.Sprint("-", events))
			created.Labels["pod-template-hash"] = fmt.Sprintf("%08x", ^uint32(n))
			r.remove(old)
			pending := created.DeepCopy()
			pending.Status = corev1.PodStatus{Phase: corev1.PodPending}
			r.set(pending)
			created.Status.PodIP = netip.AddrFrom4(address).String()
			created.Status.PodIPs = []corev1.PodIP{{IP: created.Status.PodIP}}
			r.set(created)
		}
		time.Sleep(time.Millisecond)
	}
	return events
}

// profiles is the folder that gets the agents' profiles; empty: none are taken.
var profiles = os.Getenv("PODFENCE_BENCH_PROFILES")

// profileCPU takes a profile of the agent's next 20 seconds.
func profileCPU(b *testing.B, a *agent.Agent, name string) <-chan error {
	b.Helper()
	done := make(chan error, 1)
	if profiles == "" {
		done <- nil
		return done
	}
	go func() {
		profile, err := a.Profile(context.Background(), "/debug/pprof/profile?seconds=20")
		done <- errors.Join(err, os.WriteFile(filepath.Join(profiles, name), profile, 0o644))
	}()
	return done
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
