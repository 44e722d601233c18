//go:build e2e

package e2e

import (
	"context"
	"flag"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/podfence/podfence/test/check"
)

// addCost is how many pods TestAddCost starts with announcements, and how many without.
var addCost = flag.Int("add-cost", 0, "how many pods TestAddCost starts with announcements, and how many without; 0: it is left out")

// TestAddCost measures what it costs a pod's start that its address is announced: how long ADDs take
// by the agent's own count, with announcements and without, in turns; and how long the API server
// takes for one write.
func TestAddCost(t *testing.T) {
	if *addCost == 0 {
		t.Skip("it measures, and checks nothing; -add-cost 200 has it start 200 pods each way")
	}
	ns := newNamespace(t)
	apply(t, denyAll(ns))
	args := agentDaemonSet(t).Spec.Template.Spec.Containers[0].Args
	modes := []string{"off", "prefer"}
	taken := map[string]*adds{"off": {}, "prefer": {}}
	const turns = 4
	changeAgents(t, func(*corev1.PodSpec) {})
	for turn := range 2 * turns {
		mode := modes[(turn+turn/2)%2] // off prefer prefer off, and so on
		updateAgents(t, func(ds *appsv1.DaemonSet) {
			ds.Spec.Template.Spec.Containers[0].Args = append(slices.Clone(args), "--peers-first="+mode)
		})
		agentsReady(t)
		if mode == "prefer" {
			expectAnnouncing(t)
		}
		before := addsOf(t, "node1")
		for i := range *addCost / turns {
			// One at a time: it is about the way of one.
			no := false
			pod := newPod(ns, fmt.Sprintf("%s-%d-%d", mode, turn, i), on("node1"))
			pod.Spec.AutomountServiceAccountToken = &no
			pod.Spec.Containers[0].Args = []string{"pause"}
			start(t, pod)
		}
		taken[mode].add(addsOf(t, "node1"), before)
		deletePods(t, ns)
	}
	for _, mode := range modes {
		a := taken[mode]
		t.Logf("--peers-first=%s: %.0f ADDs, mean %.1f ms, p50 about %.1f ms, p99 about %.0f ms", mode, a.count, 1000*a.sum/a.count, 1000*a.quantile(0.5), 1000*a.quantile(0.99))
	}
	own := as(t, agentToken(t, "node1"))
	var writes []time.Duration
	for range 200 {
		err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
			object := announcedOf(t, "node1")
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "nobody", UID: "nobody"}}
			object.Pods = append(object.Pods[:0:0], lie(pod, fmt.Sprintf("10.0.0.%d", len(writes))))
			began := time.Now()
			err := own.Update(context.Background(), object)
			writes = append(writes, time.Since(began))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(writes)
	t.Logf("the API server's answer to one write: p50 %s, p99 %s", writes[len(writes)/2], writes[len(writes)*99/100])
}

// adds are how long ADDs have taken, as an agent's histogram has it.
type adds struct {
	count, sum float64
	buckets    [addBuckets]float64 // how many took at most a millisecond, two, four, and so on
}

const addBuckets = 14

// addsOf reads a node's.
func addsOf(t *testing.T, node string) (a adds) {
	t.Helper()
	const name = "podfence_add_duration_seconds"
	read := func(name string) float64 {
		t.Helper()
		return check.Value(metric(node, name))(t)
	}
	a.count, a.sum = read(name+"_count"), read(name+"_sum")
	for i := range a.buckets {
		a.buckets[i] = read(fmt.Sprintf(`%s_bucket{le="%v"}`, name, math.Ldexp(0.001, i)))
	}
	return a
}

// add adds what has come since.
func (a *adds) add(now, before adds) {
	a.count += now.count - before.count
	a.sum += now.sum - before.sum
	for i := range a.buckets {
		a.buckets[i] += now.buckets[i] - before.buckets[i]
	}
}

// quantile is one, as if those in a bucket were spread evenly over it.
func (a *adds) quantile(q float64) float64 {
	below := 0.0
	for i, upTo := range a.buckets {
		if upTo >= q*a.count {
			low := math.Ldexp(0.001, i-1)
			if i == 0 {
				low = 0
			}
			return low + (math.Ldexp(0.001, i)-low)*(q*a.count-below)/(upTo-below)
		}
		below = upTo
	}
	return math.Inf(1)
}
