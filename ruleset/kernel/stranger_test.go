package kernel_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/quantiles"
)

// BenchmarkStranger changes a label of a pod in one namespace while the author of another's
// policies rewrites them all: four, of so many selectors each, in a cluster of 5,000 pods.
// An operation is one change, in the kernel.
func BenchmarkStranger(b *testing.B) {
	for _, attack := range []struct {
		name      string
		selectors int
		negative  bool // they mean all pods but one
	}{{"none", 0, false}, {"narrow", 1300, false}, {"wide", 1300, true}, {"within-budget", 20, true}} {
		b.Run("attack="+attack.name, func(b *testing.B) {
			c := newNamespace(b).open()
			m := policy.NewModel("node")
			pod := func(namespace string, i int, app string) {
				m.Apply(policy.SetPod(&policy.Pod{
					Key: policy.Key{Namespace: namespace, Name: fmt.Sprint(i)}, Node: []string{"node", "other"}[min(i, 1)],
					Labels: policy.LabelsOf(map[string]string{"app": app}),
					IPs:    []netip.Addr{netip.AddrFrom4([4]byte{10, namespace[0], byte(i >> 8), byte(i)})},
				}))
			}
			for _, namespace := range []string{"bank", "shop"} {
				m.Apply(policy.SetNamespace(policy.Namespace{Name: namespace}))
				for i := range 2500 {
					pod(namespace, i, "web")
				}
			}
			set := func(namespace, name string, peers []policy.Selector) {
				m.Apply(policy.SetPolicy(policy.Policy{
					Key: policy.Key{Namespace: namespace, Name: name}, Subject: &policy.Selector{Namespace: namespace},
					Isolates: [2]bool{true, false}, Rules: [2][]policy.Rule{{{Peers: peers, AnyPort: true}}},
				}))
			}
			set("bank", "steady", []policy.Selector{{Namespace: "bank", Pods: "app=db"}})
			table := ruleset.Build(m.Intent(), ruleset.Options{})
			mustApply(b, c, table.Replacement())
			took := []time.Duration{}

			for i := 0; b.Loop(); i++ {
				if attack.selectors > 0 && i%20 == 0 {
					for j := range 4 {
						var peers []policy.Selector
						for k := range attack.selectors {
							s := policy.Selector{Pods: fmt.Sprintf("app=%d-%d-%d", i, j, k)}
							if attack.negative {
								s.Pods = fmt.Sprintf("app!=%d-%d-%d", i, j, k)
							}
							peers = append(peers, s)
						}
						set("shop", fmt.Sprint(j), peers)
					}
				}
				pod("bank", 1, []string{"db", "web"}[i%2])
				changed := time.Now()
				mustApply(b, c, table.Update(m.Take()))
				took = append(took, time.Since(changed))
			}
			quantiles.Report(b, "", time.Microsecond, took, 50, 99)
			b.ReportMetric(float64(table.Size().Elements), "elements")
		})
	}
}
