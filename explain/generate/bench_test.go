package generate_test

import (
	"fmt"
	"math/rand"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/explain/generate"
	"github.com/podfence/podfence/test/random"
)

// BenchmarkGenerate: 500 workloads of 4 pods in 20 namespaces, each of which asks four others, and 20,000 connections.
func BenchmarkGenerate(b *testing.B) {
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("ns-%d", i))
	}
	c := newTown(names...)
	var pods []*corev1.Pod
	for w := range 500 {
		for p := range 4 {
			c.next = 0 // its addresses follow
			pod := c.pod(fmt.Sprintf("ns-%d/w%d-%d", w%20, w, p), fmt.Sprintf("Deployment/w%d", w), []string{random.Node, random.OtherNode}[p%2], app(fmt.Sprint("w", w)), "http 8080/TCP")
			pod.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.244.%d.%d", 1+len(pods)/250, 2+len(pods)%250)}}
			pods = append(pods, pod)
		}
	}
	for _, n := range c.Nodes { // whose ranges would not have so many
		n.Spec.PodCIDR, n.Spec.PodCIDRs = "", nil
	}
	r := rand.New(rand.NewSource(1))
	var seen []*flows.Flow
	for range 20_000 {
		w := r.Intn(500)
		to := (w*7 + 1 + r.Intn(4)) % 500
		seen = append(seen, flow(at(pods[4*w+r.Intn(4)]), at(pods[4*to+r.Intn(4)]), "TCP/8080"))
	}
	b.ResetTimer()
	for b.Loop() {
		result := generate.Generate(&c.Cluster, generate.Seen{Flows: seen}, options)
		if len(result.Policies) != 500 || !result.Report.Complete() || len(result.Report.Open) > 0 {
			b.Fatalf("%+v", result.Report)
		}
	}
}
