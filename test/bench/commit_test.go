package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/scale"
)

// BenchmarkFirstCommit is what an agent does from when its caches have synced
// until its node is fenced: objects into the model, the table, one transaction.
// The node has 250 pods of a cluster of 100,250, in ten namespaces with ten
// policies each, all of them the node's.
func BenchmarkFirstCommit(b *testing.B) {
	if err := lab.Check(); err != nil {
		b.Skipf("skipped: %v", err)
	}
	size := scale.Size{Pods: 100_250, Namespaces: 10, Policies: 100, Local: 250}
	var pods []*policy.Pod // as the cache has them
	for n := range size.Pods {
		if pod, seen := policy.PodOf(size.Pod(n)); seen {
			pods = append(pods, pod)
		}
	}
	conn, err := kernel.Open(kernel.Options{NetNS: newNode(b).NetNS()})
	must(b, err)
	b.Cleanup(func() { must(b, conn.Close()) })
	for _, above := range []int{0, 100} {
		b.Run(fmt.Sprintf("cluster-policies=%d", above), func(b *testing.B) { firstCommit(b, conn, size, pods, above) })
	}
}

// firstCommit is such a commit, with so many ClusterNetworkPolicies as well.
func firstCommit(b *testing.B, conn *kernel.Conn, size scale.Size, pods []*policy.Pod, above int) {
	for b.Loop() {
		began := time.Now()
		m := policy.NewModel(scale.Node)
		for _, node := range size.Nodes() {
			m.Apply(policy.SetNode(policy.NodeOf(node)))
		}
		for n := range size.Namespaces {
			m.Apply(policy.SetNamespace(policy.NamespaceOf(scale.Namespace(n))))
		}
		for _, pod := range pods {
			m.Apply(policy.SetPod(pod))
		}
		for n := range size.Policies {
			parsed, _ := policy.Parse(size.Policy(n))
			m.Apply(policy.SetPolicy(parsed))
		}
		for n := range above {
			parsed, _ := policy.ParseCluster(scale.ClusterPolicy(n))
			m.Apply(policy.SetPolicy(parsed))
		}
		table := ruleset.Build(m.Intent(), ruleset.Options{RevokedMark: 1 << 29})
		must(b, conn.Apply(table.Replacement()))
		b.ReportMetric(time.Since(began).Seconds(), "s-commit")
		b.ReportMetric(float64(table.Size().Elements), "elements")
		b.ReportMetric(0, "ns/op")
	}
}
