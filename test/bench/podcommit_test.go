package bench

import (
	"fmt"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/quantiles"
	"github.com/podfence/podfence/test/scale"
)

// BenchmarkPodCommit is what a node of 250 pods takes that some NetworkPolicies isolate, all of them for
// both directions: from a new pod in the model to the kernel's acknowledgement, and the replacement of the
// whole table.
func BenchmarkPodCommit(b *testing.B) {
	if err := lab.Check(); err != nil {
		b.Skipf("skipped: %v", err)
	}
	size := scale.Size{Pods: 250, Local: 250, Namespaces: 1}
	for _, policies := range []int{1, 3, 10, 30} {
		b.Run(fmt.Sprintf("policies-of-a-pod=%d", policies), func(b *testing.B) {
			m := policy.NewModel(scale.Node)
			for _, node := range size.Nodes() {
				m.Apply(policy.SetNode(policy.NodeOf(node)))
			}
			m.Apply(policy.SetNamespace(policy.NamespaceOf(scale.Namespace(0))))
			for n := range policies {
				parsed, problems := policy.Parse(onPort(n))
				if len(problems) > 0 {
					b.Fatal(problems)
				}
				m.Apply(policy.SetPolicy(parsed))
			}
			var pod *policy.Pod
			for n := range size.Pods {
				pod, _ = policy.PodOf(size.Pod(n))
				m.Apply(policy.SetPod(pod))
			}
			table := ruleset.Build(m.Intent(), ruleset.Options{RevokedMark: 1 << 29})
			conn, err := kernel.Open(kernel.Options{NetNS: newNode(b).NetNS()})
			must(b, err)
			b.Cleanup(func() { must(b, conn.Close()) })
			must(b, conn.Apply(table.Replacement()))
			settle := func() {
				for first := true; first || m.Pending(); first = false {
					must(b, conn.Apply(table.Update(m.Take())))
				}
			}
			var added, replaced []time.Duration
			for b.Loop() {
				m.Apply(policy.DeletePod(pod.Key))
				settle()
				began := time.Now()
				m.Apply(policy.SetPod(pod))
				settle()
				added, began = append(added, time.Since(began)), time.Now()
				must(b, conn.Apply(table.Replacement()))
				replaced = append(replaced, time.Since(began))
			}
			quantiles.Report(b, "pod", time.Microsecond, added, 50)
			quantiles.Report(b, "table", time.Millisecond, replaced, 50)
			b.ReportMetric(float64(table.Size().Rules), "rules")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// onPort is a policy that isolates all pods of its namespace, and allows a port of its own.
func onPort(n int) *networkingv1.NetworkPolicy {
	port := intstr.FromInt32(int32(1000 + n))
	ports := []networkingv1.NetworkPolicyPort{{Port: &port}}
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: scale.Namespace(0).Name, Name: fmt.Sprintf("on-port-%d", n)},
		Spec: networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{Ports: ports}},
			Egress:      []networkingv1.NetworkPolicyEgressRule{{Ports: ports}},
		},
	}
}
