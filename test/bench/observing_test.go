package bench

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/observer"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/lab"
)

// BenchmarkObserving measures what it costs the packets of a node with 100 policies that connections are
// observed. Each load runs in turns with the one and the other that are compared, as for DataPlane:
//
//	nobody             with an agent's part of it that nobody asks, and without it: the noise
//	sampled            while somebody observes, as many events a second as an agent tells, and while nobody does
//	everything         the same, with all events told
//	at=10000/sampled   the same two, while pods begin 10,000 connections a second besides, as a node does
//	at=10000/everything that is very busy: what the packets of an established flow lose by that
//
// flows/s is how many flows were told a second while observed, and lost how many events were lost in all.
func BenchmarkObserving(b *testing.B) {
	if err := lab.Check(); err != nil {
		b.Skipf("skipped: %v", err)
	}
	w := newWire(b)
	table := manyPods(b, 100)
	loadNFT(b, w.nodes[0], "flush ruleset\n"+tracking)
	commit(b, w.nodes[0], table)
	must(b, w.wrong(false))
	must(b, w.nodes[0].SetSysctl("net/netfilter/nf_conntrack_udp_timeout", "1"))
	const all, some = math.MaxInt, 2000 // as the agent has it
	for _, c := range []struct {
		name     string
		limit    int
		observed bool
		begun    int // connections a second besides
	}{
		{"nobody", some, false, 0}, {"sampled", some, true, 0}, {"everything", all, true, 0},
		{"at=10000/sampled", some, true, 10_000}, {"at=10000/everything", all, true, 10_000},
	} {
		b.Run(c.name, func(b *testing.B) {
			o := newObserving(b, w, table, c.limit, c.observed)
			var datagrams, connections comparison
			begun := w.begin(b, c.begun)
			for b.Loop() {
				must(b, w.nodes[0].FlushConntrack())
				datagrams.measure(b, w.datagrams, o.begin, o.end)
				if c.begun == 0 {
					connections.measure(b, w.connections, o.begin, o.end)
				}
			}
			datagrams.report(b, "Mpkt/s", func(t turn) float64 { return t.perSecond() / 1e6 })
			datagrams.report(b, "cpu-ns/packet", turn.cpuPerUnit)
			if c.begun == 0 {
				connections.report(b, "conn/s", turn.perSecond)
				connections.report(b, "cpu-ns/conn", turn.cpuPerUnit)
			} else {
				b.ReportMetric(begun(), "begun/s")
			}
			o.report(b)
			b.ReportMetric(0, "ns/op")
		})
	}
}

// observing is what an agent has for those who observe connections.
type observing struct {
	b           *testing.B
	observed    bool
	store       *observer.Store
	connections *observer.Connections
	stop        func() // ends the part; nil: it is not there
	done        func() // ends the observation that is under way
	told        atomic.Uint64
	since       time.Time
	took        time.Duration
}

func newObserving(b *testing.B, w *wire, table *ruleset.Table, limit int, observed bool) *observing {
	b.Helper()
	events, err := kernel.OpenConnEvents(kernel.Options{NetNS: w.nodes[0].NetNS()}, "/proc/sys", limit)
	must(b, err)
	o := &observing{b: b, observed: observed}
	o.connections = observer.NewConnections(observer.ConnectionsOptions{
		Node: "node", Events: events, Names: measuredNames{}, AllowedBy: answering(table),
		Tell: func(f *flows.Flow) { o.told.Add(1); o.store.Add(f) },
		Log:  logr.Discard(),
	})
	o.store = observer.NewStore(4096, o.connections.Observing)
	b.Cleanup(func() { o.end(); must(b, events.Close()) })
	return o
}

// begin has connections observed, or has the part there that could; end ends that. If that is so already,
// they do nothing.
func (o *observing) begin() {
	if o.stop != nil {
		return
	}
	ctx, cancel := context.WithCancel(o.b.Context())
	ended := make(chan error)
	go func() { ended <- o.connections.Start(ctx) }()
	o.stop = func() { cancel(); must(o.b, <-ended) }
	if o.observed {
		o.done, o.since = o.store.Observe(), time.Now()
	}
}

func (o *observing) end() {
	if o.done != nil {
		o.done()
		o.done = nil
		o.took += time.Since(o.since)
	}
	if o.stop != nil {
		o.stop()
		o.stop = nil
	}
}

func (o *observing) report(b *testing.B) {
	b.Helper()
	o.end()
	told, lost := o.told.Load(), o.connections.Lost()
	if (told > 0) != o.observed {
		b.Fatalf("%d flows were told; observed: %t", told, o.observed)
	}
	if o.observed {
		b.ReportMetric(float64(told)/o.took.Seconds(), "flows/s")
		b.ReportMetric(float64(lost), "lost")
	}
}

// measuredNames are the names of the measured pods.
type measuredNames struct{}

func (measuredNames) Endpoint(addr netip.Addr, port uint16) flows.Endpoint {
	e := flows.Endpoint{IP: addr, Port: port}
	switch addr {
	case clientAddr:
		e.Namespace, e.Pod = measuredNamespace, "client"
	case serverAddr:
		e.Namespace, e.Pod = measuredNamespace, "server"
	}
	return e
}

// answering says which rules of a table that does not change let packets pass, and remembers that, as the
// enforcer does.
func answering(table *ruleset.Table) func(nft.HookPoint, policy.Packet) []ruleset.Decided {
	type question struct {
		hook   nft.HookPoint
		packet policy.Packet
	}
	answers := map[question][]ruleset.Decided{}
	return func(hook nft.HookPoint, p policy.Packet) []ruleset.Decided {
		by, known := answers[question{hook, p}]
		if !known {
			by = table.AllowedBy(table.Trace(hook, nft.TracePacket{Packet: p, State: nft.New}))
			answers[question{hook, p}] = by
		}
		return by
	}
}

// begin has the client begin so many connections a second with the server until the benchmark ends: UDP, of
// one datagram each, from one port after the other. What it returns is how many a second it were.
func (w *wire) begin(b *testing.B, perSecond int) (begun func() float64) {
	b.Helper()
	if perSecond == 0 {
		return nil
	}
	const ports = 30_000 // by when these are through, connection tracking has forgotten the first
	packets := make([][]byte, ports)
	for i := range packets {
		var err error
		p := policy.Packet{Src: clientAddr, Dst: serverAddr, Protocol: policy.UDP, DstPort: firstPort}
		packets[i], err = lab.Craft(p, uint16(20_000+i), []byte{1})
		must(b, err)
	}
	var sent atomic.Uint64
	began := time.Now()
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			for due := uint64(time.Since(began).Seconds() * float64(perSecond)); sent.Load() < due; sent.Add(1) {
				if err := w.client.Send(packets[sent.Load()%ports]); err != nil {
					b.Error(fmt.Errorf("begin a connection: %w", err))
					return
				}
			}
			runtime.Gosched()
			time.Sleep(time.Millisecond)
		}
	})
	b.Cleanup(func() { cancel(); running.Wait() })
	return func() float64 { return float64(sent.Load()) / time.Since(began).Seconds() }
}
