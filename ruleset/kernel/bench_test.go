package kernel_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/test/quantiles"
)

func mustApply(b *testing.B, c *kernel.Conn, plan ruleset.Plan) {
	b.Helper()
	if err := c.Apply(plan); err != nil {
		b.Fatal(err)
	}
}

// full is a table with a set of 100,000 addresses, and empty maps of pods.
func full() ruleset.Plan {
	return ruleset.Plan{Replace: true, Ops: []ruleset.Op{
		ruleset.AddSet{Name: "peers", Type: ruleset.Addr4},
		ruleset.AddElements{Set: "peers", Type: ruleset.Addr4, Elements: manyAddrs(0, 100_000)},
		ruleset.AddSet{Name: "egress-pods-4", Type: ruleset.Addr4, Map: true},
		ruleset.AddSet{Name: "ingress-pods-4", Type: ruleset.Addr4, Map: true},
		ruleset.AddChain{Name: "base", Hook: &ruleset.Hook{Point: ruleset.Forward, Priority: -10}},
		ruleset.SetRules{Chain: "base", Rules: []ruleset.Rule{
			matches(ruleset.Verdict{Action: ruleset.Dispatch, Map: "egress-pods-4", Field: ruleset.SrcAddr4}),
			matches(ruleset.Verdict{Action: ruleset.Dispatch, Map: "ingress-pods-4", Field: ruleset.DstAddr4}),
		}},
	}}
}

// BenchmarkOneElement adds one address to a set of 100,000, and takes it away.
func BenchmarkOneElement(b *testing.B) {
	c := newNamespace(b).open()
	mustApply(b, c, full())
	one := manyAddrs(200_000, 1)
	add := ruleset.Plan{Ops: []ruleset.Op{ruleset.AddElements{Set: "peers", Type: ruleset.Addr4, Elements: one}}}
	remove := ruleset.Plan{Ops: []ruleset.Op{ruleset.DeleteElements{Set: "peers", Type: ruleset.Addr4, Elements: one}}}
	b.ReportAllocs()
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		mustApply(b, c, add)
		took = append(took, time.Since(began))
		mustApply(b, c, remove)
	}
	quantiles.Report(b, "", time.Microsecond, took, 50, 99)
}

// BenchmarkNewPod adds a pod to 250: its chain, with a jump and a drop, and its
// entry in two maps.
func BenchmarkNewPod(b *testing.B) {
	c := newNamespace(b).open()
	mustApply(b, c, full())
	mustApply(b, c, ruleset.Plan{Ops: []ruleset.Op{ruleset.AddChain{Name: "policy"}}})
	add := func(i int) {
		pod, keys := fmt.Sprint("pod-", i), manyAddrs(i, 1)
		mustApply(b, c, ruleset.Plan{Ops: []ruleset.Op{
			ruleset.AddChain{Name: pod},
			ruleset.SetRules{Chain: pod, Rules: []ruleset.Rule{
				matches(jump("policy")),
				{Counter: true, Verdict: ruleset.Verdict{Action: ruleset.Drop}},
			}},
			ruleset.AddVerdicts{Map: "egress-pods-4", Type: ruleset.Addr4, Entries: verdicts(jump(pod), keys...)},
			ruleset.AddVerdicts{Map: "ingress-pods-4", Type: ruleset.Addr4, Entries: verdicts(ruleset.Verdict{}, keys...)},
		}})
	}
	for i := range 250 {
		add(i)
	}
	b.ReportAllocs()
	for b.Loop() {
		add(250)
		b.StopTimer()
		mustApply(b, c, ruleset.Plan{Ops: []ruleset.Op{
			ruleset.DeleteElements{Set: "egress-pods-4", Type: ruleset.Addr4, Elements: manyAddrs(250, 1)},
			ruleset.DeleteElements{Set: "ingress-pods-4", Type: ruleset.Addr4, Elements: manyAddrs(250, 1)},
			ruleset.DeleteChain{Name: "pod-250"},
		}})
		b.StartTimer()
	}
}

// BenchmarkLoad replaces a table by one with 100,000 addresses.
func BenchmarkLoad(b *testing.B) {
	c := newNamespace(b).open()
	plan := full()
	b.ReportAllocs()
	for b.Loop() {
		mustApply(b, c, plan)
	}
}

// BenchmarkOpen connects, probes and closes.
func BenchmarkOpen(b *testing.B) {
	n := newNamespace(b)
	b.ReportAllocs()
	for b.Loop() {
		c, err := kernel.Open(kernel.Options{NetNS: n.fd})
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
