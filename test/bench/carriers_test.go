package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/test/quantiles"
)

// The cluster that the totals are of: each agent has a watch, and pods start and end as fast.
const (
	watchers   = 5_000
	startsRate = 100 // of the whole cluster, per second
)

// podsOfNode is how many pods kubelet has on a node by default.
const podsOfNode = 110

// announcing is an API object that could carry the addresses of new pods to other nodes, as the
// agent of one node writes it.
type announcing struct {
	// key is the object that has the nth pod, in etcd.
	key func(n int) string
	// start announces the nth pod, by one request.
	start func(n int) error
	// end takes that back, by one request; nil: it goes with the pod.
	end func(n int) error
	// later is how many events of the pod's own life have what start has added to it.
	later int
}

// carriers are what the choice was from (docs/adr/0048): what agents watch, and what the agent of a
// node does that starts so many pods.
var carriers = []struct {
	name  string
	watch watched
	by    func(s *apiStage, node string, pods int) (announcing, error)
}{
	{"object-of-node", podAddresses, updates(0)},
	{"object-of-node-applied", podAddresses, applies},
	{"object-of-node-all-pods", podAddresses, updates(podsOfNode - 1)},
	{"object-of-pod", podAddresses, creates},
	{"annotation-of-pod", pods, annotatesPods},
	{"annotation-of-node", nodes, annotatesNode},
}

// updates keeps the object of a node by updates. It always has some of the node's other pods.
func updates(others int) func(*apiStage, string, int) (announcing, error) {
	return func(s *apiStage, node string, _ int) (announcing, error) {
		object := podAddressesOf(node)
		for n := range others {
			object.Pods = append(object.Pods, podAddress(-1-n))
		}
		write := func(pods []v1alpha1.PodAddress) error {
			object.Pods = pods
			return s.Update(context.Background(), object)
		}
		always := object.Pods[:others:others]
		return announcing{
			key:   podAddresses.key(node),
			start: func(n int) error { return write(append(always, podAddress(n))) },
			end:   func(int) error { return write(always) },
		}, s.Create(context.Background(), object)
	}
}

// applies keeps the same object by server-side apply.
func applies(s *apiStage, node string, _ int) (announcing, error) {
	apply := func(pods ...v1alpha1.PodAddress) error {
		object := podAddressesOf(node)
		object.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "PodAddresses"}
		object.Pods = pods
		return s.patch(object, types.ApplyPatchType, object, client.ForceOwnership, client.FieldOwner("podfence"))
	}
	return announcing{
		key:   podAddresses.key(node),
		start: func(n int) error { return apply(podAddress(n)) },
		end:   func(int) error { return apply() },
	}, apply()
}

// creates has an object for each pod.
func creates(s *apiStage, node string, _ int) (announcing, error) {
	name := func(n int) string { return node + "-" + string(podAddress(n).UID) }
	return announcing{
		key: func(n int) string { return podAddresses.key(name(n))(n) },
		start: func(n int) error {
			object := podAddressesOf(node)
			object.Name, object.Pods = name(n), []v1alpha1.PodAddress{podAddress(n)}
			return s.Create(context.Background(), object)
		},
		end: func(n int) error {
			return s.Delete(context.Background(), &v1alpha1.PodAddresses{ObjectMeta: metav1.ObjectMeta{Name: name(n)}})
		},
	}, nil
}

// annotatesPods writes it at the pods, which are where an ADD finds them: bound, and shown as being
// created.
func annotatesPods(s *apiStage, node string, count int) (announcing, error) {
	var names []string
	for range count {
		life, err := s.newLife(node)
		if err != nil {
			return announcing{}, err
		}
		for _, step := range life.untilADD() {
			if err := step(); err != nil {
				return announcing{}, err
			}
		}
		names = append(names, life.pod.Name)
	}
	return announcing{
		key: func(n int) string { return pods.key(shop + "/" + names[n])(n) },
		start: func(n int) error {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: names[n]}}
			return s.patch(pod, types.MergePatchType, annotation(podAddress(n).IPs))
		},
		later: lifeAfterADD,
	}, nil
}

// annotatesNode writes the same as updates(0) at the Node.
func annotatesNode(s *apiStage, node string, _ int) (announcing, error) {
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}
	return announcing{
		key: nodes.key(node),
		start: func(n int) error {
			return s.patch(object, types.MergePatchType, annotation([]v1alpha1.PodAddress{podAddress(n)}))
		},
		end: func(int) error { return s.patch(object, types.MergePatchType, annotation(nil)) },
	}, s.Create(context.Background(), realNode(node, "10.244.17.0/24"))
}

// annotation is a patch that has an object say what is said; nil: no longer.
func annotation(said any) any {
	var value any
	if text, err := json.Marshal(said); err == nil && said != nil {
		value = string(text)
	}
	return map[string]any{"metadata": map[string]any{"annotations": map[string]any{"podfence.io/addresses": value}}}
}

// patch sends a patch of an object.
func (s *apiStage) patch(object client.Object, kind types.PatchType, patch any, o ...client.PatchOption) error {
	text, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	return s.Patch(context.Background(), object, client.RawPatch(kind, text), o...)
}

// podAddressesOf is the object of a node, without pods.
func podAddressesOf(node string) *v1alpha1.PodAddresses {
	return &v1alpha1.PodAddresses{ObjectMeta: metav1.ObjectMeta{Name: node, OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "v1", Kind: "Node", Name: node, UID: "9b1f6c3e-4a7d-4e55-9d0c-7a2b1c3d4e5f"},
	}}}
}

// podAddress is what is said of the nth pod.
func podAddress(n int) v1alpha1.PodAddress {
	return v1alpha1.PodAddress{
		Namespace: shop, Name: fmt.Sprintf("checkout-6d8f9c7b54-%05x", n&0xfffff), UID: types.UID(fmt.Sprintf("7c0e4a52-1b9d-4f3e-8a6c-%012x", uint32(n))),
		IPs: []string{fmt.Sprintf("10.244.17.%d", 10+n&0x7f)}, Since: v1alpha1.Now(),
	}
}

// BenchmarkCarriers is what it costs to tell the nodes of a cluster where a new pod is, by each API
// object that could carry it: for the agent that tells, for the API server and its etcd, and for
// the agents that watch. With it, as carrier=none, is what a pod's own life sends to all that watch
// pods.
//
// Events are counted as the agents' client gets them, without what HTTP and TLS add; etcd's bytes as
// it writes them to its log. Etcd has been told not to wait for the disk.
func BenchmarkCarriers(b *testing.B) {
	s := newAPIStage(b)
	b.Run("carrier=none", s.measureLife)
	for _, c := range carriers {
		b.Run("carrier="+c.name, func(b *testing.B) {
			b.Run("writers=1", func(b *testing.B) {
				one, err := c.by(s, s.newNode(), b.N)
				must(b, err)
				s.measureCost(b, c.watch, one)
			})
			b.Run("writers=8", func(b *testing.B) {
				all := make([]announcing, 8)
				for i := range all {
					var err error
					all[i], err = c.by(s, s.newNode(), (b.N+len(all)-1)/len(all))
					must(b, err)
				}
				measureTogether(b, all)
			})
		})
	}
}

// measureCost has pods start and end, one after another.
func (s *apiStage) measureCost(b *testing.B, w watched, a announcing) {
	var took []time.Duration
	started, ended, grown, object := 0, 0, 0, 0 // bytes
	stored := func(n int) int {
		if a.later == 0 {
			return 0
		}
		return s.stored(b, a.key(n))
	}
	events := s.watch(b, w)
	writes, written := s.etcd(b)
	for n := range b.N {
		before := stored(n)
		began := time.Now()
		must(b, a.start(n))
		took = append(took, time.Since(began))
		started += events.next(b)
		object = s.stored(b, a.key(n))
		grown += stored(n) - before
		if a.end != nil {
			must(b, a.end(n))
			ended += events.next(b)
		}
	}
	writesAfter, writtenAfter := s.etcd(b)
	of := func(total int) float64 { return float64(total) / float64(b.N) }
	requests := 1.0
	if a.end != nil {
		requests++
	}
	quantiles.Report(b, "", time.Microsecond, took, 50, 99)
	b.ReportMetric(requests, "requests/pod")
	b.ReportMetric((writesAfter-writes)/float64(b.N), "etcd-writes/pod")
	b.ReportMetric((writtenAfter-written)/float64(b.N), "etcd-B/pod")
	b.ReportMetric(float64(object), "object-B")
	b.ReportMetric(of(started), "event-B")
	reportWatched(b, of(started+ended+a.later*grown))
}

// reportWatched reports what a watcher gets for each pod, and the totals of the cluster.
func reportWatched(b *testing.B, bytes float64) {
	b.ReportMetric(bytes, "watch-B/pod")
	b.ReportMetric(bytes*startsRate/1e3, "agent-kB/s")
	b.ReportMetric(bytes*startsRate*watchers/1e6, "all-agents-MB/s")
	b.ReportMetric(0, "ns/op")
}

// measureTogether has pods start on some nodes at once.
func measureTogether(b *testing.B, all []announcing) {
	var wg sync.WaitGroup
	took, errs := make([][]time.Duration, len(all)), make([]error, len(all))
	began := time.Now()
	for i, a := range all {
		wg.Go(func() {
			for n := range (b.N + len(all) - 1) / len(all) {
				began := time.Now()
				if errs[i] = a.start(n); errs[i] != nil {
					return
				}
				took[i] = append(took[i], time.Since(began))
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(began)
	var times []time.Duration
	for i := range all {
		must(b, errs[i])
		times = append(times, took[i]...)
	}
	quantiles.Report(b, "", time.Microsecond, times, 50, 99)
	b.ReportMetric(float64(len(times))/elapsed.Seconds(), "starts/s")
}

// measureLife has pods live without announcements.
func (s *apiStage) measureLife(b *testing.B) {
	events := s.watch(b, pods)
	started, ended, object := 0, 0, 0
	writes, written := s.etcd(b)
	for range b.N {
		life, err := s.newLife("node-of-lives")
		must(b, err)
		for _, step := range life.untilRunning() {
			must(b, step())
			started += events.next(b)
		}
		object = s.stored(b, pods.key(shop+"/"+life.pod.Name)(0))
		for _, step := range life.untilGone() {
			must(b, step())
			ended += events.next(b)
		}
		ended += events.next(b) // the last step has two
	}
	writesAfter, writtenAfter := s.etcd(b)
	b.ReportMetric((writesAfter-writes)/float64(b.N), "etcd-writes/pod")
	b.ReportMetric((writtenAfter-written)/float64(b.N), "etcd-B/pod")
	b.ReportMetric(float64(object), "object-B")
	b.ReportMetric(float64(started)/float64(b.N), "until-running-B/pod")
	reportWatched(b, float64(started+ended)/float64(b.N))
}
