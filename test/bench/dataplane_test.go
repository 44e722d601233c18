package bench

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
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
			w.check(b, r.open)
			var stream, datagrams, connections comparison
			for b.Loop() {
				must(b, w.node.FlushConntrack())
				stream.measure(b, w.stream, rules, none)
				datagrams.measure(b, w.datagrams, rules, none)
				connections.measure(b, w.connections, rules, none)
			}
			b.ReportMetric(stream.rate()*8/1e9, "Gbit/s")
			b.ReportMetric(datagrams.rate()/1e6, "Mpkt/s")
			b.ReportMetric(datagrams.cpu()*1e9, "cpu-ns/packet")
			b.ReportMetric(connections.rate(), "conn/s")
			b.ReportMetric(connections.cpu()*1e9, "cpu-ns/conn")
			b.ReportMetric(stream.ratio(turn.perSecond), "%Gbit/s")
			b.ReportMetric(datagrams.ratio(turn.perSecond), "%Mpkt/s")
			b.ReportMetric(datagrams.ratio(turn.cpuPerUnit), "%cpu-ns/packet")
			b.ReportMetric(connections.ratio(turn.perSecond), "%conn/s")
			b.ReportMetric(connections.ratio(turn.cpuPerUnit), "%cpu-ns/conn")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// wire is a node with the two pods, and a host that no policy mentions.
type wire struct {
	node                     *lab.Node
	client, server, outsider *lab.Host
}

func newWire(b *testing.B) *wire {
	b.Helper()
	l, err := lab.New(lab.Options{})
	must(b, err)
	b.Cleanup(func() { must(b, l.Close()) })
	w := &wire{}
	w.node, err = l.AddNode(scale.Node, netip.MustParseAddr("172.16.0.1"))
	must(b, err)
	w.client, err = w.node.AddPod("client", lab.PodOptions{IPs: []netip.Addr{clientAddr}})
	must(b, err)
	w.server, err = w.node.AddPod("server", lab.PodOptions{IPs: []netip.Addr{serverAddr}})
	must(b, err)
	w.outsider, err = w.node.AddExternal("outsider", netip.MustParseAddr("192.0.2.1"))
	must(b, err)
	for _, port := range []uint16{firstPort, closedPort} {
		_, err := w.server.Serve(policy.TCP, port)
		must(b, err)
	}
	// Tens of thousands of connections a second: neither the client's ports nor the
	// node's connection tracking may run out.
	must(b, w.client.SetSysctl("net/ipv4/ip_local_port_range", "10000 65535"))
	must(b, w.node.SetSysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "1"))
	return w
}

// check fails the benchmark unless the policies are in force at both pods.
func (w *wire) check(b *testing.B, open bool) {
	b.Helper()
	for _, c := range []struct {
		from *lab.Host
		port uint16
		pass bool
	}{
		{w.client, firstPort, true},
		{w.client, closedPort, open},
		{w.outsider, firstPort, open},
	} {
		err := c.from.Exchange(policy.TCP, netip.AddrPortFrom(serverAddr, c.port), 300*time.Millisecond)
		if passed := err == nil; passed != c.pass {
			b.Fatalf("connection from %s to port %d: passed is %t, want %t: %v", c.from, c.port, passed, c.pass, err)
		}
	}
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
func (t turn) cpuPerUnit() float64 { return t.cpu.Seconds() / float64(t.units) }

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

// rate is the median under the rules, a second; cpu the time for one of them.
func (c *comparison) rate() float64 { return quantiles.Median(c.rules, turn.perSecond) }
func (c *comparison) cpu() float64  { return quantiles.Median(c.rules, turn.cpuPerUnit) }

// ratio is the median of the pairs', in percent.
func (c *comparison) ratio(of func(turn) float64) float64 {
	var ratios []float64
	for n := range c.rules {
		ratios = append(ratios, 100*of(c.rules[n])/of(c.none[n]))
	}
	return quantiles.Median(ratios, func(v float64) float64 { return v })
}

// cpuTime is what this process has used, in user space and in the kernel.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// stream is bytes over one TCP connection.
func (w *wire) stream(b *testing.B) load {
	b.Helper()
	const size = 256 << 10
	listener := w.listen(b, unix.SOCK_STREAM, streamPort)
	var sender int
	must(b, w.client.Do(func() (err error) {
		sender, err = connect(unix.SOCK_STREAM, streamPort)
		return err
	}))
	receiver, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	must(b, errors.Join(err, unix.Close(listener)))
	var bytes atomic.Uint64
	var running sync.WaitGroup
	running.Go(func() {
		for buffer := make([]byte, size); ; {
			if _, err := unix.Write(sender, buffer); err != nil {
				return // stopped
			}
		}
	})
	running.Go(func() {
		for buffer := make([]byte, size); ; {
			n, err := unix.Read(receiver, buffer)
			if n <= 0 || err != nil {
				return // stopped
			}
			bytes.Add(uint64(n))
		}
	})
	return load{bytes.Load, func() error {
		err := unix.Shutdown(sender, unix.SHUT_RDWR)
		running.Wait()
		return errors.Join(err, unix.Close(sender), unix.Close(receiver))
	}}
}

// connections are TCP connections without data, as many at once as keep all
// processors busy. The server closes first, so that the client knows that it has
// accepted; then the client resets, so that nothing is left of the connection.
func (w *wire) connections(b *testing.B) load {
	b.Helper()
	var closed atomic.Uint64
	var stopped atomic.Bool
	var clients, servers sync.WaitGroup
	workers := 2 * runtime.GOMAXPROCS(0)
	listeners, errs := make([]int, workers), make([]error, workers)
	for i := range workers {
		listeners[i] = w.listen(b, unix.SOCK_STREAM, workerPort+i)
		servers.Go(func() {
			for {
				conn, _, err := unix.Accept4(listeners[i], unix.SOCK_CLOEXEC)
				if err != nil {
					return // stopped
				}
				unix.Close(conn)
			}
		})
		clients.Go(func() {
			errs[i] = w.client.Do(func() error {
				for !stopped.Load() {
					conn, err := connect(unix.SOCK_STREAM, workerPort+i)
					if err != nil {
						return err
					}
					_, err = unix.Read(conn, make([]byte, 1))
					if err := errors.Join(err, unix.Close(conn)); err != nil {
						return err
					}
					closed.Add(1)
				}
				return nil
			})
		})
	}
	return load{closed.Load, func() error {
		stopped.Store(true)
		clients.Wait()
		for _, listener := range listeners {
			errs = append(errs, unix.Shutdown(listener, unix.SHUT_RDWR))
		}
		servers.Wait()
		for _, listener := range listeners {
			errs = append(errs, unix.Close(listener))
		}
		return errors.Join(errs...)
	}}
}

// listen opens a socket of the server's.
func (w *wire) listen(b *testing.B, kind, port int) (fd int) {
	b.Helper()
	must(b, w.server.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: serverAddr.As4()}),
		)
		if err == nil && kind == unix.SOCK_STREAM {
			err = unix.Listen(fd, 128)
		}
		return err
	}))
	return fd
}

// connect opens a socket, in the thread's namespace, and connects it to the
// server. A TCP connection is reset when it is closed.
func connect(kind, port int) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	return fd, errors.Join(
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: serverAddr.As4()}),
	)
}

// datagrams are those of one UDP flow. What counts is that they arrive on the
// server's link; nobody reads them, since a reader that can't keep up would hide
// what rules cost.
func (w *wire) datagrams(b *testing.B) load {
	b.Helper()
	receiver := w.listen(b, unix.SOCK_DGRAM, firstPort)
	var sender int
	must(b, w.client.Do(func() (err error) {
		sender, err = connect(unix.SOCK_DGRAM, firstPort)
		return err
	}))
	must(b, establish(sender, receiver))
	var stopped atomic.Bool
	failed := make(chan error, 1)
	go func() {
		batch := newBatch(64, 64)
		for !stopped.Load() {
			if err := batch.send(sender); err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	count := func() (packets uint64) {
		must(b, w.server.Do(func() error {
			link, err := netlink.LinkByName("eth0")
			if err == nil {
				packets = link.Attrs().Statistics.RxPackets
			}
			return err
		}))
		return packets
	}
	return load{count, func() error {
		stopped.Store(true)
		return errors.Join(<-failed, unix.Close(sender), unix.Close(receiver))
	}}
}

// establish sends a datagram there and one back: to connection tracking, a UDP
// flow is established once it has seen both directions.
func establish(sender, receiver int) error {
	timeout := &unix.Timeval{Sec: 1}
	if err := errors.Join(
		unix.SetsockoptTimeval(sender, unix.SOL_SOCKET, unix.SO_RCVTIMEO, timeout),
		unix.SetsockoptTimeval(receiver, unix.SOL_SOCKET, unix.SO_RCVTIMEO, timeout),
	); err != nil {
		return err
	}
	octet := make([]byte, 1)
	if _, err := unix.Write(sender, octet); err != nil {
		return fmt.Errorf("send a datagram: %w", err)
	}
	_, from, err := unix.Recvfrom(receiver, octet, 0)
	if err != nil {
		return fmt.Errorf("receive a datagram: %w", err)
	}
	if err := unix.Sendto(receiver, octet, 0, from); err != nil {
		return fmt.Errorf("answer a datagram: %w", err)
	}
	if _, err := unix.Read(sender, octet); err != nil {
		return fmt.Errorf("receive the answer: %w", err)
	}
	return nil
}

// batch is datagrams to send at once, by sendmmsg(2), so that what is measured
// is not what the system call costs.
type batch []struct {
	header unix.Msghdr
	length uint32 // struct mmsghdr; the kernel's to set
}

func newBatch(datagrams, size int) batch {
	all := make(batch, datagrams)
	for i := range all {
		iov := &unix.Iovec{Base: &make([]byte, size)[0]}
		iov.SetLen(size)
		all[i].header.Iov = iov
		all[i].header.SetIovlen(1)
	}
	return all
}

func (m batch) send(fd int) error {
	if _, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("sendmmsg: %w", errno)
	}
	return nil
}
