package kernel_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/check"
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

// BenchmarkHold is how long a pod waits for an answer over UDP whose reply is held until one element has got into a set, and how
// long for one that is not held.
func BenchmarkHold(b *testing.B) {
	d := newDNSLab(b)
	d.beating()
	main := check.Value(kernel.Open(kernel.Options{NetNS: d.node.NetNS()}))(b)
	b.Cleanup(func() { _ = main.Close() })
	domain := nft.Of(nft.IPv4Addr, nft.IPv4Addr)
	mustApply(b, main, nft.Plan{Replace: true, Ops: []nft.Op{nft.AddSet{Name: "domain", Type: domain}}})
	queue := check.Value(kernel.OpenQueue(kernel.Options{NetNS: d.node.NetNS()}, replyQueue, 1024))(b)
	done := make(chan error, 1)
	b.Cleanup(func() { _, _ = queue.Close(), <-done })
	var commits []time.Duration
	go func() {
		last := uint32(0)
		for {
			err := queue.Receive(func(p nft.Queued) {
				last++
				learned := nft.AddrElement(p.Dst.Addr())
				learned.LastAddr = nft.AddrElement(netip.AddrFrom4([4]byte{203, byte(last >> 16), byte(last >> 8), byte(last)})).Addr
				began := time.Now()
				if err := main.Apply(nft.Plan{Ops: []nft.Op{nft.AddElements{Set: "domain", Type: domain, Elements: []nft.Element{learned}}}}); err != nil {
					b.Errorf("learn: %v", err)
				}
				commits = append(commits, time.Since(began))
				if err := queue.Release(p.ID); err != nil {
					b.Errorf("release: %v", err)
				}
			})
			if err != nil {
				done <- nil
				return
			}
		}
	}()
	socket := func(to netip.AddrPort) (c net.Conn) {
		check.NoError(b, d.asker.Do(func() (err error) {
			c, err = net.Dial("udp", to.String())
			return err
		}))
		b.Cleanup(func() { _ = c.Close() })
		return c
	}
	held, plain := socket(service4), socket(unknown4)
	buffer := make([]byte, 512)
	ask := func(c net.Conn) time.Duration {
		began := time.Now()
		_ = c.SetDeadline(began.Add(time.Second))
		if _, err := c.Write([]byte(question)); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(buffer); err != nil {
			b.Fatal(err)
		}
		return time.Since(began)
	}
	var tookHeld, tookPlain, added []time.Duration
	for b.Loop() {
		time.Sleep(time.Millisecond) // pods do not ask in a loop, and the agent has slept
		without := ask(plain)
		time.Sleep(time.Millisecond)
		with := ask(held)
		tookHeld, tookPlain, added = append(tookHeld, with), append(tookPlain, without), append(added, with-without)
	}
	if len(commits) < len(tookHeld) {
		b.Fatalf("%d replies, of which %d were held", len(tookHeld), len(commits))
	}
	quantiles.Report(b, "held", time.Microsecond, tookHeld, 50, 99)
	quantiles.Report(b, "plain", time.Microsecond, tookPlain, 50, 99)
	quantiles.Report(b, "added", time.Microsecond, added, 50, 99)
	quantiles.Report(b, "commit", time.Microsecond, commits, 50, 99)
}
