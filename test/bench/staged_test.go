package bench

import (
	"context"
	"fmt"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/quantiles"
	"github.com/podfence/podfence/test/scale"
)

// BenchmarkStaged measures what it costs the packets between two pods of a node that a default deny of both directions
// is staged for all of its 252 pods: connections, and packets of one that is established, with the staged table of what
// they pass without it, in turns (see BenchmarkDataPlane). In one case the policies in force allow the connections, and
// go on to with the staged ones; in the other nothing is in force, and each connection is one that would be denied.
func BenchmarkStaged(b *testing.B) {
	if err := lab.Check(); err != nil {
		b.Skipf("skipped: %v", err)
	}
	size := scale.Size{Pods: 250, Local: 250, Namespaces: 10, Policies: 100}
	allowing := []*networkingv1.NetworkPolicy{measuredPolicy("server-from-client")}
	for n := range size.Policies {
		allowing = append(allowing, size.Policy(n))
	}
	for name, inForce := range map[string][]*networkingv1.NetworkPolicy{"allowed": allowing, "would-deny": nil} {
		b.Run(name, func(b *testing.B) {
			policies := inForce
			for n := range size.Namespaces {
				policies = append(policies, stagedDefaultDeny(scale.Namespace(n).Name))
			}
			w := newWire(b)
			m := modelOf(b, size, policies, nil)
			o := ruleset.Options{RevokedMark: 1 << 29, LogGroup: 28774}
			loadNFT(b, w.nodes[0], "flush ruleset\n"+tracking)
			commit(b, w.nodes[0], ruleset.Build(m.Intent(), o))
			began := time.Now()
			staged := m.NewStaged()
			table := ruleset.Build(staged.Intent(), o.ForStaged())
			made := time.Since(began)
			if n := staged.Rehearsed(); n != 252 {
				b.Fatalf("policies are staged for %d pods", n)
			}
			commitStaged(b, w.nodes[0], table)
			must(b, w.wrong(inForce == nil))
			const name = "inet " + nft.StagedTableName
			with, without := w.change(b, []string{name}, nil), w.change(b, nil, []string{name})
			var datagrams, connections comparison
			for b.Loop() {
				must(b, w.nodes[0].FlushConntrack())
				datagrams.measure(b, w.datagrams, with, without)
				connections.measure(b, w.connections, with, without)
			}
			datagrams.report(b, "Mpkt/s", func(t turn) float64 { return t.perSecond() / 1e6 })
			connections.report(b, "conn/s", turn.perSecond)
			connections.report(b, "cpu-ns/conn", turn.cpuPerUnit)
			quantiles.ReportMedian(b, "ms-to-make", []float64{float64(made.Microseconds()) / 1000})
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkLatencyStaged is the time from the API server's answer to a change until the first packet gets the verdict that
// the change means, as BenchmarkLatency has it, while nothing is staged, and while a default deny is for all pods of the
// node; and what the agent takes of memory then.
func BenchmarkLatencyStaged(b *testing.B) {
	size := scale.Size{Pods: 5_000, Namespaces: 50, Policies: 500, Local: 250}
	for _, staged := range []bool{false, true} {
		b.Run(fmt.Sprintf("staged=%t", staged), func(b *testing.B) {
			c := newCluster(b, size)
			if staged {
				each(b, size.Namespaces, func(n int) error {
					np := stagedDefaultDeny(scale.Namespace(n).Name)
					_, err := c.NetworkingV1().NetworkPolicies(np.Namespace).Create(context.Background(), np, metav1.CreateOptions{})
					return err
				})
			}
			_, a := c.measureChanges(b)
			b.Run("memory", func(b *testing.B) {
				usage, err := a.Usage()
				must(b, err)
				b.ReportMetric(float64(usage.Resident)/1e6, "MB-resident")
				b.ReportMetric(0, "ns/op")
			})
		})
	}
}

// commitStaged puts the staged table into the node's kernel.
func commitStaged(b *testing.B, n *lab.Node, table *ruleset.Table) {
	b.Helper()
	conn, err := kernel.Open(kernel.Options{NetNS: n.NetNS(), Table: nft.StagedTableName})
	must(b, err)
	must(b, conn.Apply(table.Replacement()))
	must(b, conn.Close())
}

// stagedDefaultDeny is a default deny for all pods of a namespace, staged.
func stagedDefaultDeny(namespace string) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default-deny", Annotations: map[string]string{policy.EnforcementAnnotation: policy.Staged}},
		Spec:       networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}},
	}
}
