package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/agent"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/prebuilt"
	"github.com/podfence/podfence/test/scale"
)

// floodRate is how many packets a second a pod sends that are denied.
const floodRate = 100_000

// BenchmarkFlood measures what it costs others that denied packets are told, while a pod sends 100,000 packets
// a second that are denied: of a single flow, and to all ports, so that each is of a new flow. The loads are
// those of DataPlane, in turns with a table that tells denials, somebody reading them, and with one that does
// not, and so are round trips of single datagrams. told/s is how many were told, and flood/s how many were sent.
func BenchmarkFlood(b *testing.B) {
	if err := lab.Check(); err != nil {
		b.Skipf("skipped: %v", err)
	}
	w := newWire(b)
	node := w.nodes[0]
	loadNFT(b, node, "flush ruleset\n"+tracking)
	const group = 28774
	telling, silent := manyPods(b, 100, func(o *ruleset.Options) { o.LogGroup = group }), manyPods(b, 100)
	conn, err := kernel.Open(kernel.Options{NetNS: node.NetNS()})
	must(b, err)
	defer conn.Close()
	enforce := func(table *ruleset.Table) func() { return func() { must(b, conn.Apply(table.Replacement())) } }
	enforce(telling)()
	must(b, w.wrong(false))
	flooder, err := node.AddPod("flooder", lab.PodOptions{IPs: []netip.Addr{netip.MustParseAddr(scale.Size{Pods: 250, Local: 250, Namespaces: 10}.Pod(0).Status.PodIP)}})
	must(b, err)
	told := hear(b, node, group)
	for _, ports := range []int{1, 50_000} {
		b.Run(fmt.Sprintf("ports=%d", ports), func(b *testing.B) {
			flood := startFlood(b, flooder, serverAddr, ports)
			before, began := told.Load(), time.Now()
			var datagrams, stream comparison
			var trips roundTrips
			for b.Loop() {
				must(b, node.FlushConntrack())
				datagrams.measure(b, w.datagrams, enforce(telling), enforce(silent))
				stream.measure(b, w.stream, enforce(telling), enforce(silent))
				trips.measure(b, w, enforce(telling), enforce(silent))
			}
			took := time.Since(began).Seconds()
			b.ReportMetric(float64(told.Load()-before)/took, "told/s")
			b.ReportMetric(flood.stop(b), "flood/s")
			datagrams.report(b, "Mpkt/s", func(t turn) float64 { return t.perSecond() / 1e6 })
			stream.report(b, "Gbit/s", func(t turn) float64 { return t.perSecond() * 8 / 1e9 })
			trips.report(b)
			b.ReportMetric(0, "ns/op")
		})
	}
}

// hear reads what a group is told until the benchmark ends, and counts it.
func hear(b *testing.B, node *lab.Node, group uint16) *atomic.Int64 {
	b.Helper()
	log, err := kernel.OpenLog(kernel.Options{NetNS: node.NetNS()}, group)
	must(b, err)
	told, ended := &atomic.Int64{}, make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, err := log.Receive(func(nft.Logged) { told.Add(1) }); err != nil {
				return
			}
		}
	}()
	b.Cleanup(func() { must(b, log.Close()); <-ended })
	return told
}

// flood is packets under way.
type flood struct {
	sent    atomic.Int64
	began   time.Time
	stopped atomic.Bool
	failed  chan error
}

// startFlood has a host send floodRate packets a second to so many ports of an address, one after the other.
func startFlood(b *testing.B, from *lab.Host, to netip.Addr, ports int) *flood {
	b.Helper()
	f := &flood{began: time.Now(), failed: make(chan error, 1)}
	go func() { f.failed <- from.Do(func() error { return f.run(to, ports) }) }()
	return f
}

func (f *flood) run(to netip.Addr, ports int) error {
	runtime.LockOSThread()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	payload := make([]byte, 16)
	for !f.stopped.Load() {
		due := int64(time.Since(f.began).Seconds() * floodRate)
		for n := f.sent.Load(); n < due && !f.stopped.Load(); n++ {
			// What answers come is no error here, nor is a full queue.
			_ = unix.Sendto(fd, payload, 0, &unix.SockaddrInet4{Addr: to.As4(), Port: 10_000 + int(n)%ports})
			f.sent.Store(n + 1)
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// stop ends the flood, and returns its rate.
func (f *flood) stop(b *testing.B) float64 {
	b.Helper()
	f.stopped.Store(true)
	must(b, <-f.failed)
	return float64(f.sent.Load()) / time.Since(f.began).Seconds()
}

// BenchmarkFloodedAgent measures what a real agent takes while a pod of its node is denied 100,000 packets a
// second, each to another port: processors, and resident memory before and after.
func BenchmarkFloodedAgent(b *testing.B) {
	if err := lab.Check(); err != nil {
		b.Skipf("skipped: %v", err)
	}
	binary := filepath.Join(b.TempDir(), "podfence")
	must(b, prebuilt.Podfence(binary))
	w := newWire(b)
	flooder, err := w.nodes[0].AddPod("flooder", lab.PodOptions{IPs: []netip.Addr{netip.MustParseAddr("10.0.0.10")}})
	must(b, err)
	folder := b.TempDir()
	must(b, os.WriteFile(filepath.Join(folder, "cluster.yaml"), []byte(flooded), 0o644))
	a, err := agent.Start(agent.Options{Binary: binary, Node: w.nodes[0], Manifests: folder})
	must(b, err)
	defer func() { must(b, a.Stop()) }()
	must(b, a.AwaitReady(b.Context()))
	for b.Loop() {
		before, err := a.Usage()
		must(b, err)
		f := startFlood(b, flooder, serverAddr, 50_000)
		time.Sleep(10 * time.Second)
		after, usageErr := a.Usage()
		rate := f.stop(b)
		must(b, errors.Join(usageErr))
		b.ReportMetric(rate, "flood/s")
		b.ReportMetric((after.CPU-before.CPU).Seconds()/10, "cores")
		b.ReportMetric(float64(before.Resident)/1e6, "MB-before")
		b.ReportMetric(float64(after.Resident)/1e6, "MB-after")
	}
	b.ReportMetric(0, "ns/op")
}

// flooded is a cluster in which the server takes nothing.
const flooded = `apiVersion: v1
kind: Namespace
metadata: {name: ns-0000}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: ns-0000, labels: {app: server}}
spec: {nodeName: node-0, containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 10.0.0.253, podIPs: [{ip: 10.0.0.253}]}
---
apiVersion: v1
kind: Pod
metadata: {name: flooder, namespace: ns-0000}
spec: {nodeName: node-0, containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 10.0.0.10, podIPs: [{ip: 10.0.0.10}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nothing, namespace: ns-0000}
spec: {podSelector: {matchLabels: {app: server}}}
`
