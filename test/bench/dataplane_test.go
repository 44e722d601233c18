package bench

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/quantiles"
	"github.com/podfence/podfence/test/scale"
)

const (
	// Each load runs under a ruleset and under the empty one in turns, pairs times:
	// what else the machine does falls on both alike. A turn is settling, then slice.
	pairs    = 8
	settling = 50 * time.Millisecond
	slice    = 250 * time.Millisecond

	// The policies allow firstPort to lastPort, and not closedPort.
	firstPort  = 7000
	streamPort = 7001
	workerPort = 7100 // and those after it, one for each worker
	lastPort   = 7199
	closedPort = 7999
)

// The measured pods are in the node's pod range, after scale's.
var clientAddr, serverAddr = netip.MustParseAddr("10.0.0.252"), netip.MustParseAddr("10.0.0.253")

// BenchmarkDataPlane measures what rules cost the packets between two pods of a
// node, over its forward hook:
//
//	Gbit/s         one TCP stream. With segmentation offload its packets are up to
//	               64 KiB long, so this says little about rules.
//	Mpkt/s         one UDP flow of 64 bytes each, established: what a packet costs.
//	conn/s         TCP connections, each opened, accepted and closed: the cost of a
//	               first packet, and of five that are established.
//	cpu-ns/packet  CPU time of this process for each packet of the UDP flow, and
//	cpu-ns/conn    for each connection.
//
// A packet is forwarded by the processor that sends it, in softirq. So Mpkt/s is
// what one core does, and the senders' CPU time has what forwarding costs; it says
// more than the rates on a machine that does other things too. (A kernel with
// CONFIG_IRQ_TIME_ACCOUNTING counts softirq apart; there only the rates mean
// anything.)
//
// Those with % are what passes, or is taken, of that with an empty ruleset: the
// median of pairs of turns, one with the rules and one without, of the same streams
// and connections, that follow each other. The empty ruleset against itself is the
// noise. The order of the rulesets is another each time.
//
// The pods are on links of their own, but for "installed": there they are as podfence's
// plugin and agents have connected and fenced them, and go over the bridge, through the
// tunnel to a pod of another node, or masqueraded to a host outside. With and without the
// rules, guard and masquerading among them, they take the same way.
func BenchmarkDataPlane(b *testing.B) {
	if err := lab.Check(); err != nil {
		b.Skipf("skipped: %v", err)
	}
	w := newWire(b)
	all := allRules()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, r := range all {
		b.Run(r.name, func(b *testing.B) {
			rules, none := w.load(b, r)
			rules()
			must(b, w.wrong(r.open))
			w.compare(b, rules, none)
		})
	}
	b.Run("installed", func(b *testing.B) {
		for name, w := range newInstalled(b) {
			b.Run(name, func(b *testing.B) {
				rules, none := w.sleeping(b)
				rules()
				must(b, w.wrong(false))
				before := tunnelled(b, w.nodes[0])
				w.compare(b, rules, none)
				if by := tunnelled(b, w.nodes[0]) > before; by != (len(w.nodes) > 1) {
					b.Fatalf("packets went through the tunnel: %t", by)
				}
			})
		}
	})
}

// wire is two ends, the client a pod, the nodes that are between them, and a host whom the
// policies let reach the server no more than others.
type wire struct {
	nodes                    []*lab.Node
	client, server, stranger *lab.Host
	// source is whom the server takes the client for.
	source netip.Addr
}

// newWire is a node with two pods.
func newWire(b *testing.B) *wire {
	b.Helper()
	l, err := lab.New(lab.Options{})
	must(b, err)
	b.Cleanup(func() { must(b, l.Close()) })
	n, err := l.AddNode(scale.Node, netip.MustParseAddr("172.16.0.1"))
	must(b, err)
	w := &wire{nodes: []*lab.Node{n}, source: clientAddr}
	w.client, err = n.AddPod("client", lab.PodOptions{IPs: []netip.Addr{clientAddr}})
	must(b, err)
	w.server, err = n.AddPod("server", lab.PodOptions{IPs: []netip.Addr{serverAddr}})
	must(b, err)
	w.stranger, err = n.AddExternal("stranger", netip.MustParseAddr("192.0.2.1"))
	must(b, err)
	w.prepare(b)
	return w
}

// prepare has the ends ready for loads.
func (w *wire) prepare(b *testing.B) {
	b.Helper()
	for _, port := range []uint16{firstPort, closedPort} {
		_, err := w.server.Serve(policy.TCP, port)
		must(b, err)
	}
	// Tens of thousands of connections a second: neither the client's ports nor the
	// nodes' connection tracking may run out.
	must(b, w.client.SetSysctl("net/ipv4/ip_local_port_range", "10000 65535"))
	for _, n := range w.nodes {
		must(b, n.SetSysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "1"))
	}
}

// wrong says what passes that must not, or does not that must, where the policies are in
// force at both ends, or all is open.
func (w *wire) wrong(open bool) error {
	for _, c := range []struct {
		from *lab.Host
		port uint16
		pass bool
	}{
		{w.client, firstPort, true},
		{w.client, closedPort, open},
		{w.stranger, firstPort, open},
	} {
		err := c.from.Exchange(policy.TCP, netip.AddrPortFrom(w.server.IPs[0], c.port), 300*time.Millisecond)
		if passed := err == nil; passed != c.pass {
			return fmt.Errorf("connection from %s to port %d of %s: passed is %t, want %t: %v", c.from, c.port, w.server, passed, c.pass, err)
		}
	}
	return nil
}

// compare measures all loads under the rules and without.
func (w *wire) compare(b *testing.B, rules, none func()) {
	var stream, datagrams, connections comparison
	for b.Loop() {
		for _, n := range w.nodes {
			must(b, n.FlushConntrack())
		}
		stream.measure(b, w.stream, rules, none)
		datagrams.measure(b, w.datagrams, rules, none)
		connections.measure(b, w.connections, rules, none)
	}
	stream.report(b, "Gbit/s", func(t turn) float64 { return t.perSecond() * 8 / 1e9 })
	datagrams.report(b, "Mpkt/s", func(t turn) float64 { return t.perSecond() / 1e6 })
	datagrams.report(b, "cpu-ns/packet", turn.cpuPerUnit)
	connections.report(b, "conn/s", turn.perSecond)
	connections.report(b, "cpu-ns/conn", turn.cpuPerUnit)
	b.ReportMetric(0, "ns/op")
}

// load is traffic under way. Its sockets are the system's, and block: Go's own
// would wake the poller for each packet that leaves one.
type load struct {
	// count is how much has arrived so far.
	count func() uint64
	// stop ends it, and returns what went wrong.
	stop func() error
}

// turn is how much of a load has arrived, in what time.
type turn struct {
	units     uint64
	wall, cpu time.Duration
}

func (t turn) perSecond() float64  { return float64(t.units) / t.wall.Seconds() }
func (t turn) cpuPerUnit() float64 { return float64(t.cpu.Nanoseconds()) / float64(t.units) }

// comparison is a load's turns under a ruleset, and those under the empty one, each
// beside the one that it is compared with.
type comparison struct{ rules, none []turn }

// measure adds the turns of a load. Which of a pair comes first changes.
func (c *comparison) measure(b *testing.B, start func(*testing.B) load, rules, none func()) {
	b.Helper()
	l := start(b)
	for n := range pairs {
		sides := []func(){
			func() { rules(); c.rules = append(c.rules, l.turn(b)) },
			func() { none(); c.none = append(c.none, l.turn(b)) },
		}
		sides[n%2]()
		sides[1-n%2]()
	}
	must(b, l.stop())
}

// turn is what passes from now on.
func (l load) turn(b *testing.B) turn {
	b.Helper()
	time.Sleep(settling)
	units, began, cpu := l.count(), time.Now(), cpuTime(b)
	time.Sleep(slice)
	t := turn{l.count() - units, time.Since(began), cpuTime(b) - cpu}
	if t.units == 0 {
		b.Fatal("nothing arrives")
	}
	return t
}

// report reports the median under the rules, and that of the shares of each pair's turn
// without, in per cent.
func (c *comparison) report(b *testing.B, unit string, of func(turn) float64) {
	var values, shares []float64
	for n := range c.rules {
		values = append(values, of(c.rules[n]))
		shares = append(shares, 100*of(c.rules[n])/of(c.none[n]))
	}
	quantiles.ReportMedian(b, unit, values)
	quantiles.ReportMedian(b, "%"+unit, shares)
}

// cpuTime is what this process has used, in user space and in the kernel.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
