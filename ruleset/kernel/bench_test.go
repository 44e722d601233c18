package kernel_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/quantiles"
)

func mustApply(b *testing.B, c *kernel.Conn, plan nft.Plan) {
	b.Helper()
	if err := c.Apply(plan); err != nil {
		b.Fatal(err)
	}
}

// full is a table with a set of 100,000 addresses, and empty maps of pods.
func full() nft.Plan {
	return nft.Plan{Replace: true, Ops: []nft.Op{
		nft.AddSet{Name: "peers", Type: nft.Of(nft.IPv4Addr)},
		nft.AddElements{Set: "peers", Type: nft.Of(nft.IPv4Addr), Elements: manyAddrs(0, 100_000)},
		nft.AddSet{Name: "egress-pods-4", Type: nft.Of(nft.IPv4Addr), Map: true},
		nft.AddSet{Name: "ingress-pods-4", Type: nft.Of(nft.IPv4Addr), Map: true},
		nft.AddChain{Name: "base", Hook: &nft.Hook{Point: nft.Forward, Priority: -10}},
		nft.SetRules{Chain: "base", Rules: []nft.Rule{
			matches(nft.Verdict{Action: nft.Dispatch, Map: "egress-pods-4", Field: nft.SrcAddr4}),
			matches(nft.Verdict{Action: nft.Dispatch, Map: "ingress-pods-4", Field: nft.DstAddr4}),
		}},
	}}
}

// BenchmarkOneElement adds one address to a set of 100,000, and takes it away.
func BenchmarkOneElement(b *testing.B) {
	c := newNamespace(b).open()
	mustApply(b, c, full())
	one := manyAddrs(200_000, 1)
	add := nft.Plan{Ops: []nft.Op{nft.AddElements{Set: "peers", Type: nft.Of(nft.IPv4Addr), Elements: one}}}
	remove := nft.Plan{Ops: []nft.Op{nft.DeleteElements{Set: "peers", Type: nft.Of(nft.IPv4Addr), Elements: one}}}
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
	mustApply(b, c, nft.Plan{Ops: []nft.Op{nft.AddChain{Name: "policy"}}})
	add := func(i int) {
		pod, keys := fmt.Sprint("pod-", i), manyAddrs(i, 1)
		mustApply(b, c, nft.Plan{Ops: []nft.Op{
			nft.AddChain{Name: pod},
			nft.SetRules{Chain: pod, Rules: []nft.Rule{
				matches(jump("policy")),
				{Counter: true, Verdict: nft.Verdict{Action: nft.Drop}},
			}},
			nft.AddVerdicts{Map: "egress-pods-4", Type: nft.Of(nft.IPv4Addr), Entries: verdicts(jump(pod), keys...)},
			nft.AddVerdicts{Map: "ingress-pods-4", Type: nft.Of(nft.IPv4Addr), Entries: verdicts(nft.Verdict{}, keys...)},
		}})
	}
	for i := range 250 {
		add(i)
	}
	b.ReportAllocs()
	for b.Loop() {
		add(250)
		b.StopTimer()
		mustApply(b, c, nft.Plan{Ops: []nft.Op{
			nft.DeleteElements{Set: "egress-pods-4", Type: nft.Of(nft.IPv4Addr), Elements: manyAddrs(250, 1)},
			nft.DeleteElements{Set: "ingress-pods-4", Type: nft.Of(nft.IPv4Addr), Elements: manyAddrs(250, 1)},
			nft.DeleteChain{Name: "pod-250"},
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
