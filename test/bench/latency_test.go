package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/podfence/podfence/test/agent"
	"github.com/podfence/podfence/test/quantiles"
	"github.com/podfence/podfence/test/scale"
)

// sizes are the loads: pods of the cluster, some of them the node's, and policies of theirs.
var sizes = []scale.Size{
	{Namespaces: 1},
	{Pods: 5_000, Namespaces: 50, Policies: 500, Local: 100},
	{Pods: 20_000, Namespaces: 200, Policies: 2_000, Local: 100},
}

func sizeName(s scale.Size) string { return fmt.Sprintf("pods=%d/policies=%d", s.Pods, s.Policies) }

// BenchmarkLatency is the time from the API server's answer to a change until the first
// packet gets the verdict that the change means; in the largest cluster also while others'
// pods are created.
func BenchmarkLatency(b *testing.B) {
	for i, size := range sizes {
		b.Run(sizeName(size), func(b *testing.B) {
			c := newCluster(b, size)
			w, a := c.measureChanges(b)
			if i < len(sizes)-1 {
				return
			}
			others := c.newArrivals(b, size)
			const rate = 100
			b.Run(fmt.Sprintf("change=label/created=%d", rate), func(b *testing.B) { others.measure(b, w, a, rate) })
		})
	}
}

// BenchmarkLatencyUnderClusterPolicies is the same in a cluster of many namespaces, without
// ClusterNetworkPolicies and with a hundred of 25 rules.
func BenchmarkLatencyUnderClusterPolicies(b *testing.B) {
	size := scale.Size{Pods: 20_000, Namespaces: 1_000, Policies: 2_000, Local: 100}
	for _, above := range []int{0, 100} {
		b.Run(fmt.Sprintf("%s/namespaces=%d/cluster-policies=%d", sizeName(size), size.Namespaces, above), func(b *testing.B) {
			c := newCluster(b, size)
			c.createClusterPolicies(b, above)
			c.measureChanges(b)
		})
	}
}

// measureChanges starts an agent, and measures a policy that comes and goes, and a label that changes.
func (c *cluster) measureChanges(b *testing.B) (*way, *agent.Agent) {
	node := newNode(b)
	w := newWay(b, c, node)
	a := c.startAgent(b, node)
	policies := c.NetworkingV1().NetworkPolicies(namespace)
	deny := friendsOnly("deny")
	deny.Spec.Ingress = nil
	measure(b, w, "change=policy", func() error {
		_, err := policies.Create(context.Background(), deny, metav1.CreateOptions{})
		return err
	}, func() error {
		return policies.Delete(context.Background(), "deny", metav1.DeleteOptions{})
	})
	c.admitFriends(b, w, c.label("no"), c.label("yes"))
	measure(b, w, "change=label", c.label("no"), c.label("yes"))
	return w, a
}

func measure(b *testing.B, w *way, name string, shut, open func() error) {
	b.Run(name, func(b *testing.B) {
		var d delays
		for range b.N {
			must(b, w.measure(&d, shut, open))
		}
		d.report(b, "")
	})
}

// arrivals are pods that are created beyond those of a size, on nodes of their own.
type arrivals struct {
	*cluster
	pods scale.Size
	next int
}

// newArrivals creates the nodes.
func (c *cluster) newArrivals(b *testing.B, size scale.Size) *arrivals {
	b.Helper()
	a := &arrivals{c, scale.Size{Pods: 4 * size.Pods, Namespaces: size.Namespaces}, size.Pods}
	nodes := a.pods.Nodes()[len(size.Nodes()):]
	each(b, len(nodes), func(n int) error { return c.createNode(nodes[n]) })
	return a
}

// create creates pods at a rate a second until ctx is done.
func (a *arrivals) create(ctx context.Context, rate int) error {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	creating, ctx := errgroup.WithContext(ctx)
	for {
		select {
		case <-ctx.Done():
			return creating.Wait()
		case <-tick.C:
		}
		pod := a.pods.Pod(a.next)
		a.next++
		creating.Go(func() error { return a.createPod(pod) })
	}
}

// measure measures changes of the client's label while pods are created.
func (a *arrivals) measure(b *testing.B, w *way, agent *agent.Agent, rate int) {
	told := a.watchClient(b)
	profiled := profileCPU(b, agent, "created-cpu")
	before, err := agent.Usage()
	must(b, err)
	began, from := time.Now(), a.next
	ctx, stop := context.WithCancel(context.Background())
	created := make(chan error, 1)
	go func() { created <- a.create(ctx, rate) }()
	var d delays
	for range b.N {
		must(b, w.measure(&d, a.label("no"), a.label("yes")))
	}
	took := time.Since(began)
	after, err := agent.Usage()
	must(b, err)
	stop()
	must(b, <-created)
	must(b, <-profiled)
	d.report(b, "")
	must(b, told.report(b, d, ""))
	b.ReportMetric(float64(a.next-from)/took.Seconds(), "pods/s")
	b.ReportMetric((after.CPU-before.CPU).Seconds()/took.Seconds(), "cores")
}

// told is when a bare watch of the client alone was told of changes of it: what the API
// server takes, which shares the machine, and no agent can be quicker than.
type told struct {
	watch watch.Interface
	mu    sync.Mutex
	at    []time.Duration
}

// watchClient watches the client until the benchmark ends.
func (c *cluster) watchClient(b *testing.B) *told {
	b.Helper()
	watched, err := c.CoreV1().Pods(namespace).Watch(context.Background(), metav1.ListOptions{FieldSelector: "metadata.name=client"})
	must(b, err)
	b.Cleanup(watched.Stop)
	t := &told{watch: watched}
	go func() {
		for event := range watched.ResultChan() {
			if _, is := event.Object.(*corev1.Pod); is && event.Type == watch.Modified {
				t.mu.Lock()
				t.at = append(t.at, now())
				t.mu.Unlock()
			}
		}
	}()
	return t
}

// report reports how long after its answers the API server told of the changes, and how long
// after that they were in force, under names that begin with a prefix. It ends the watch.
func (t *told) report(b *testing.B, d delays, prefix string) error {
	t.watch.Stop()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.at) != 2*len(d.shut) {
		return fmt.Errorf("a watch was told of %d changes of a pod, want %d", len(t.at), 2*len(d.shut))
	}
	if len(t.at) == 0 {
		return errors.New("nothing has changed")
	}
	var server, agent []time.Duration
	for i := range d.shut {
		closed, opened := t.at[2*i]-d.shut[i], t.at[2*i+1]-d.opened[i]
		server = append(server, max(0, closed), max(0, opened))
		agent = append(agent, max(0, d.closing[i]-closed), max(0, d.opening[i]-opened))
	}
	quantiles.Report(b, prefix+"server", time.Millisecond, server, 50, 99, 100)
	quantiles.Report(b, prefix+"agent", time.Millisecond, agent, 50, 99, 100)
	return nil
}
