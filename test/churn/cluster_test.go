package churn

import (
	"math/rand"
	"testing"

	"github.com/podfence/podfence/test/random"
)

// TestNoPodShowsItsNode: a pod of the lab's node that is not on the host's network never shows that node's own address,
// wherever it was drawn for and whatever status it is given later.
func TestNoPodShowsItsNode(t *testing.T) {
	c := &Cluster{Rand: rand.New(rand.NewSource(1))}
	onHost := 0
	for i := range 20_000 {
		pod := c.oddPod(i%Pods, random.Node)
		if random.ShowsNode(pod) {
			t.Fatalf("pod %d shows %v", i, random.PodAddrsOf(pod))
		}
		if pod.Status = c.oddStatus(i%Pods, pod); random.ShowsNode(pod) {
			t.Fatalf("pod %d shows %v after another status", i, random.PodAddrsOf(pod))
		}
		if pod.Spec.HostNetwork {
			onHost++
		}
	}
	if onHost == 0 {
		t.Error("no pod is on the host's network")
	}
}
