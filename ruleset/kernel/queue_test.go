package kernel_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
)

// The queue and the group of the tests, and what is asked of resolvers.
const (
	replyQueue, queryGroup = 28775, 28776
	question               = "what is its address?"
)

// dnsLab is a node with a pod that asks, another pod, and a resolver, which is a pod behind a Service; the node resolves, too.
type dnsLab struct {
	t                    testing.TB
	node                 *lab.Node
	asker, other, server *lab.Host
	heartbeat            *kernel.Heartbeat
}

// The resolvers' addresses as pods write them.
var (
	service4, service6 = netip.MustParseAddrPort("10.96.0.10:53"), netip.MustParseAddrPort("[fd00:96::a]:53")
	direct4, direct6   = netip.MustParseAddrPort("10.0.0.9:53"), netip.MustParseAddrPort("[fd00::9]:53")
	local4, local6     = netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("[2001:db8::1]:53")
	quiet4             = netip.MustParseAddrPort("10.0.0.9:54") // nobody answers there
	unknown4           = netip.MustParseAddrPort("10.0.0.9:5353")
)

func newDNSLab(t testing.TB) *dnsLab {
	t.Helper()
	if err := lab.Check(); err != nil {
		t.Skipf("skipped: %v", err)
	}
	l := check.Value(lab.New(lab.Options{}))(t)
	t.Cleanup(func() { check.NoError(t, l.Close()) })
	d := &dnsLab{t: t}
	d.node = check.Value(l.AddNode("node", local4.Addr(), local6.Addr()))(t)
	pod := func(name string, last int) *lab.Host {
		return check.Value(d.node.AddPod(name, lab.PodOptions{IPs: []netip.Addr{
			netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", last)), netip.MustParseAddr(fmt.Sprintf("fd00::%d", last)),
		}}))(t)
	}
	d.asker, d.other, d.server = pod("asker", 2), pod("other", 3), pod("server", 9)
	for _, host := range []*lab.Host{d.server, &d.node.Host} {
		for _, port := range []uint16{53, 5353} {
			resolve(t, host, port)
		}
	}
	d.nft(`
table inet services {
	chain services {
		type nat hook prerouting priority dstnat
		ip daddr 10.96.0.10 meta l4proto { tcp, udp } th dport 53 dnat ip to 10.0.0.9
		ip6 daddr fd00:96::a meta l4proto { tcp, udp } th dport 53 dnat ip6 to fd00::9
	}
}`)
	conn, err := kernel.Open(kernel.Options{NetNS: d.node.NetNS(), Table: nft.NamesTableName, Queue: true})
	if errors.Is(err, kernel.ErrUnsupported) {
		t.Skipf("skipped: %v", err)
	}
	check.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	check.NoError(t, d.node.Do(func() (err error) {
		link, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err == nil {
			d.heartbeat, err = kernel.OpenHeartbeat(kernel.Options{})
		}
		return err
	}))
	t.Cleanup(func() { _ = d.heartbeat.Close() })
	resolvers := []netip.AddrPort{service4, service6, direct4, direct6, local4, local6, quiet4}
	names := ruleset.BuildNames(d.asker.IPs, resolvers, ruleset.NamesOptions{Queue: replyQueue, QueryGroup: queryGroup, Heartbeat: d.heartbeat.To()})
	check.NoError(t, conn.Apply(names.Replacement()))
	return d
}

func (d *dnsLab) nft(commands string) {
	d.t.Helper()
	runNFT(d.t, d.node, commands)
}

// beating has the heartbeat go on until the test ends, or stop is called.
func (d *dnsLab) beating() (stop func()) {
	d.t.Helper()
	check.NoError(d.t, d.heartbeat.Beat())
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(ruleset.HeartbeatTimeout * time.Second / 4):
				if err := d.heartbeat.Beat(); err != nil {
					d.t.Error(err)
					return
				}
			}
		}
	}()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			close(done)
			<-ended
		}
	}
	d.t.Cleanup(stop)
	return stop
}

// resolve has a host answer at a port, over UDP and TCP, until the test ends. An answer repeats the question, up to as many
// octets as its first word says.
func resolve(t testing.TB, host *lab.Host, port uint16) {
	t.Helper()
	answer := func(question []byte) []byte {
		first, _, _ := strings.Cut(string(question), " ")
		if size, err := strconv.Atoi(first); err == nil {
			return bytes.Repeat(question, size/len(question)+1)[:size]
		}
		return question
	}
	for _, ip := range host.IPs { // an answer comes from the address that was asked
		at := netip.AddrPortFrom(ip, port)
		var packets *net.UDPConn
		var listener *net.TCPListener
		check.NoError(t, host.Do(func() (err error) {
			if packets, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)); err == nil {
				listener, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
			}
			return err
		}))
		t.Cleanup(func() { _, _ = packets.Close(), listener.Close() })
		go func() {
			buffer := make([]byte, 64<<10)
			for {
				n, from, err := packets.ReadFromUDPAddrPort(buffer)
				if err != nil {
					return
				}
				_, _ = packets.WriteToUDPAddrPort(answer(buffer[:n]), from)
			}
		}()
		go func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer func() { _ = c.Close() }()
					buffer := make([]byte, 4096)
					if n, err := c.Read(buffer); err == nil {
						_, _ = c.Write(answer(buffer[:n]))
					}
				}()
			}
		}()
	}
}

// ask asks a resolver, and returns what comes within the time; an error if nothing does.
func (d *dnsLab) ask(host *lab.Host, network string, to netip.AddrPort, question string, within time.Duration) (string, error) {
	var conn net.Conn
	dialer := net.Dialer{Timeout: within}
	err := host.Do(func() (err error) {
		conn, err = dialer.Dial(network, to.String())
		return err
	})
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(within))
	if _, err := conn.Write([]byte(question)); err != nil {
		return "", err
	}
	if network == "tcp" {
		all, err := io.ReadAll(conn)
		return string(all), err
	}
	buffer := make([]byte, 64<<10)
	n, err := conn.Read(buffer)
	return string(buffer[:n]), err
}

// answers expects an answer within a time that is far less than a resolver library waits.
func (d *dnsLab) answers(host *lab.Host, network string, to netip.AddrPort) {
	d.t.Helper()
	if got, err := d.ask(host, network, to, question, 2*time.Second); err != nil || got != question {
		d.t.Fatalf("%s asks %s over %s: %q, %v", host, to, network, got, err)
	}
}

// queue reads the queue of replies, of at most so many, until the test ends, and the channel gets all that carries something. All
// else is released at once.
func (d *dnsLab) queue(length uint32) (*kernel.Queue, <-chan nft.Queued) {
	d.t.Helper()
	q := check.Value(kernel.OpenQueue(kernel.Options{NetNS: d.node.NetNS()}, replyQueue, length))(d.t)
	d.t.Cleanup(func() { _ = q.Close() })
	held := make(chan nft.Queued, 100)
	go func() {
		for q.Receive(func(p nft.Queued) {
			if len(p.Payload) == 0 {
				if err := q.Release(p.ID); err != nil {
					d.t.Errorf("release: %v", err)
				}
				return
			}
			p.Payload = bytes.Clone(p.Payload)
			held <- p
		}) == nil {
		}
	}()
	return q, held
}

// queries reads what is told of queries until the test ends.
func (d *dnsLab) queries() <-chan nft.Datagram {
	d.t.Helper()
	r := check.Value(kernel.OpenDatagrams(kernel.Options{NetNS: d.node.NetNS()}, queryGroup))(d.t)
	d.t.Cleanup(func() { _ = r.Close() })
	told := make(chan nft.Datagram, 100)
	go func() {
		for {
			if _, err := r.Receive(func(p nft.Datagram) {
				if len(p.Payload) > 0 {
					p.Payload = bytes.Clone(p.Payload)
					told <- p
				}
			}); err != nil {
				return
			}
		}
	}()
	return told
}

// next is what a channel has within a second.
func next[T any](t testing.TB, from <-chan T, what string) (one T) {
	t.Helper()
	select {
	case one = <-from:
	case <-time.After(time.Second):
		t.Fatalf("no %s within a second", what)
	}
	return one
}

// nothing expects a channel to stay empty.
func nothing[T any](t testing.TB, from <-chan T, what string) {
	t.Helper()
	select {
	case one := <-from:
		t.Fatalf("%s: %+v", what, one)
	case <-time.After(50 * time.Millisecond):
	}
}

type outcome struct {
	reply string
	err   error
}

// TestRepliesAreHeld: a query is told at once, with the addresses that the pod has written, and is on its way; the reply waits
// until it is released, and has not changed then.
func TestRepliesAreHeld(t *testing.T) {
	d := newDNSLab(t)
	// What node-local caches do.
	d.nft(`
table inet untracked {
	chain in { type filter hook prerouting priority raw; th dport 53 ip daddr 192.0.2.1 notrack; }
	chain out { type filter hook output priority raw; th sport 53 ip saddr 192.0.2.1 notrack; }
}`)
	queue, held := d.queue(1024)
	told := d.queries()
	d.beating()
	for _, to := range []netip.AddrPort{service4, service6, direct4, direct6, local4, local6} {
		for _, network := range []string{"udp", "tcp"} {
			for _, question := range []string{question, "1400 octets", "4000 octets", "16000 octets, please"} {
				t.Run(fmt.Sprint(network, " ", to, " ", question), func(t *testing.T) {
					done := make(chan outcome, 1)
					go func() {
						reply, err := d.ask(d.asker, network, to, question, 5*time.Second)
						done <- outcome{reply, err}
					}()
					pod := d.asker.IP(to.Addr())
					query := next(t, told, "query")
					if string(query.Payload) != question || query.Dst != to || query.Src.Addr() != pod || query.Protocol.String() != strings.ToUpper(network) {
						t.Fatalf("told of the query: %+v", query)
					}
					var first nft.Queued
					var all []byte
					for began := true; began || network == "tcp" && len(all) < len(wanted(question)); began = false {
						reply := next(t, held, "reply")
						if reply.Src != to || reply.Dst != query.Src || reply.Protocol != query.Protocol {
							t.Fatalf("held: %+v", reply)
						}
						if began {
							first = reply
							nothing(t, done, "it has come while it was held")
						}
						// Octets of TCP come in order here, but a segment may come again while it is held.
						if at := int(reply.Sequence - first.Sequence); at == len(all) {
							all = append(all, reply.Payload...)
						}
						check.NoError(t, queue.Release(reply.ID))
					}
					if string(all) != wanted(question) {
						t.Fatalf("held: %d octets, %q", len(all), all[:min(len(all), 100)])
					}
					if got := next(t, done, "answer"); got.err != nil || got.reply != wanted(question) {
						t.Fatalf("the pod got %d octets: %v", len(got.reply), got.err)
					}
					for len(held) > 0 { // a segment that was sent once more
						check.NoError(t, queue.Release((<-held).ID))
					}
				})
			}
		}
	}
}

// wanted is the answer to a question.
func wanted(question string) string {
	first, _, _ := strings.Cut(question, " ")
	if size, err := strconv.Atoi(first); err == nil {
		return strings.Repeat(question, size/len(question)+1)[:size]
	}
	return question
}

// TestOthersAreNotHeld: nothing is told of pods that no policy with names is about, nor of other ports, nor is held what a
// resolver asks such a pod.
func TestOthersAreNotHeld(t *testing.T) {
	d := newDNSLab(t)
	_, held := d.queue(1024)
	told := d.queries()
	d.beating()
	resolve(t, d.asker, 53)
	for _, network := range []string{"udp", "tcp"} {
		d.answers(d.other, network, service4)
		d.answers(d.other, network, direct6)
		d.answers(d.asker, network, unknown4)
	}
	// From a resolver's port to the pod, but as the first of a flow.
	var asks net.Conn
	check.NoError(t, d.server.Do(func() (err error) {
		asks, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(quiet4), net.UDPAddrFromAddrPort(netip.AddrPortFrom(d.asker.IP(quiet4.Addr()), 53)))
		return err
	}))
	defer func() { _ = asks.Close() }()
	_ = asks.SetDeadline(time.Now().Add(time.Second))
	check.Value(asks.Write([]byte(question)))(t)
	check.Value(asks.Read(make([]byte, 512)))(t)
	nothing(t, held, "held")
	if one := next(t, told, "answer of the pod's"); one.Dst != quiet4 { // whatever a pod sends to a resolver is told
		t.Fatalf("told: %+v", one)
	}
	nothing(t, told, "told")
	// The pod's own are held, so that this does not pass for nothing.
	if _, err := d.ask(d.asker, "udp", service4, question, 200*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a reply that nobody releases: %v", err)
	}
	next(t, held, "reply")
	next(t, told, "query")
}

// TestReaderIsGone: replies go on where nobody reads the queue, and where its reader has ended.
func TestReaderIsGone(t *testing.T) {
	d := newDNSLab(t)
	d.beating()
	both := func() {
		t.Helper()
		for _, to := range []netip.AddrPort{service4, service6, local4} {
			d.answers(d.asker, "udp", to)
			d.answers(d.asker, "tcp", to)
		}
	}
	both()
	queue, held := d.queue(1024)
	if _, err := d.ask(d.asker, "udp", service4, question, 200*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a reply that nobody releases: %v", err)
	}
	next(t, held, "reply")
	check.NoError(t, queue.Close())
	both()
}

// TestReaderIsFrozen: replies go on a second after the agent has stopped, though its sockets are open.
func TestReaderIsFrozen(t *testing.T) {
	d := newDNSLab(t)
	queue := check.Value(kernel.OpenQueue(kernel.Options{NetNS: d.node.NetNS()}, replyQueue, 1024))(t)
	t.Cleanup(func() { _ = queue.Close() })
	stop := d.beating()
	time.Sleep(1500 * time.Millisecond)
	if _, err := d.ask(d.asker, "udp", service4, question, 200*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a reply that nobody releases: %v", err)
	}
	stop()
	began := time.Now()
	for time.Since(began) < 3*time.Second {
		if _, err := d.ask(d.asker, "udp", service4, question, 100*time.Millisecond); err == nil {
			break
		}
	}
	if took := time.Since(began); took > 1300*time.Millisecond {
		t.Fatalf("an answer came %s after the agent had stopped", took)
	}
	for time.Since(began) < 3*time.Second {
		d.answers(d.asker, "udp", direct6)
		d.answers(d.asker, "tcp", local4)
		time.Sleep(100 * time.Millisecond)
	}
	// It goes on where it was: replies are held again.
	d.beating()
	if _, err := d.ask(d.asker, "udp", service4, question, 200*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a reply that nobody releases: %v", err)
	}
}

// TestQueueIsFull: more replies than may wait go on at once.
func TestQueueIsFull(t *testing.T) {
	d := newDNSLab(t)
	queue := check.Value(kernel.OpenQueue(kernel.Options{NetNS: d.node.NetNS()}, replyQueue, 2))(t)
	t.Cleanup(func() { _ = queue.Close() })
	d.beating()
	for i := range 2 {
		if _, err := d.ask(d.asker, "udp", service4, question, 200*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("reply %d, which nobody releases: %v", i, err)
		}
	}
	d.answers(d.asker, "udp", service4)
	d.answers(d.asker, "tcp", service6)
}

// TestHeartbeat: replies are held for a second after each heartbeat, however many have come before, and for no longer.
func TestHeartbeat(t *testing.T) {
	d := newDNSLab(t)
	_, held := d.queue(1024)
	holds := func(want bool) {
		t.Helper()
		_, err := d.ask(d.asker, "udp", service4, question, 100*time.Millisecond)
		if got := err != nil; got != want {
			t.Fatalf("held: %t, want %t", got, want)
		}
		if want {
			next(t, held, "reply")
		}
	}
	holds(false)
	for range 3 {
		check.NoError(t, d.heartbeat.Beat())
		time.Sleep(600 * time.Millisecond)
		holds(true)
	}
	time.Sleep(600 * time.Millisecond)
	holds(false)
	for range 10_000 { // nobody reads them
		check.NoError(t, d.heartbeat.Beat())
	}
	holds(true)
}

// TestQueueHasOneReader: a second reader is told that there is one.
func TestQueueHasOneReader(t *testing.T) {
	d := newDNSLab(t)
	d.queue(1024)
	_, err := kernel.OpenQueue(kernel.Options{NetNS: d.node.NetNS()}, replyQueue, 1024)
	var failed *kernel.OpError
	if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EPERM) || !errors.As(err, &failed) {
		t.Fatalf("a second reader: %v", err)
	}
}

// namesTable is a names table.
func namesTable() *nft.Table {
	return &ruleset.BuildNames(parseAddrs([]string{"10.244.1.2", "fd00:10:244:1::2"}), []netip.AddrPort{service4, service6}, ruleset.NamesOptions{
		Queue: 28775, QueryGroup: 28776, Heartbeat: netip.MustParseAddrPort("127.0.0.1:40000"),
	}).Table
}

// openQueueing connects to the namespace, for tables that queue packets.
func (n *namespace) openQueueing() *kernel.Conn {
	n.t.Helper()
	c, err := kernel.Open(kernel.Options{NetNS: n.fd, Queue: true})
	if errors.Is(err, kernel.ErrUnsupported) {
		n.t.Skipf("skipped: %v", err)
	}
	check.NoError(n.t, err)
	n.t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestNamesGolden: what the kernel holds of the names table is what nft makes of its text.
func TestNamesGolden(t *testing.T) {
	have, want, table := newNamespace(t), newNamespace(t), namesTable()
	golden := string(check.Value(os.ReadFile("../testdata/names/names.nft"))(t))
	const queues = "queue flags bypass to 28775"
	if _, err := newNamespace(t).try("table inet least { chain c { "+queues+"; }; }\n", "-f", "-"); err != nil && strings.Contains(err.Error(), "No such file or directory") {
		t.Log("this kernel has no CONFIG_NFT_QUEUE, and nft knows no other way: all but the verdict is compared")
		rules := table.Chains["hold"].Rules
		rules[len(rules)-1].Verdict = nft.Verdict{Action: nft.Accept}
		golden = strings.Replace(golden, queues, "accept", 1)
	}
	check.NoError(t, have.openQueueing().Apply(table.Replacement()))
	want.load(golden)
	expectSame(t, have, want)
}

// TestReaderNames: what the kernel's rules of the names table do to packets is what the tracer says of the table.
func TestReaderNames(t *testing.T) {
	n, table := newNamespace(t), namesTable()
	c := n.openQueueing()
	check.NoError(t, c.Apply(table.Replacement()))
	n.nft("add element inet podfence alive { 0 timeout 1m }", "-f", "-") // as a heartbeat does
	table.Sets["alive"].Elements = map[nft.Element]struct{}{{}: {}}
	k := check.Value(c.OpenReader(kernel.Options{NetNS: n.fd}))(t)
	t.Cleanup(func() { _ = k.Close() })
	queued := 0
	for _, state := range []nft.CtState{nft.New, nft.Established, nft.Invalid, nft.Untracked} {
		for _, reply := range []bool{false, true} {
			for _, resolver := range []netip.AddrPort{service4, service6, unknown4} {
				pod := parseAddrs([]string{"10.244.1.2", "fd00:10:244:1::2"})[resolver.Addr().BitLen()/128]
				p := nft.TracePacket{State: state, Reply: reply, SrcPort: resolver.Port(), Packet: policy.Packet{Src: resolver.Addr(), Dst: pod, Protocol: policy.UDP, DstPort: 40000}}
				trace := agree(t, k, table, nft.Postrouting, p)
				if len(trace.Steps) > 0 && trace.Steps[len(trace.Steps)-1].Rule.Verdict.Action == nft.Queue {
					queued++
				}
				p.Src, p.Dst, p.SrcPort, p.DstPort = p.Dst, p.Src, 40000, resolver.Port()
				agree(t, k, table, nft.Prerouting, p)
			}
		}
	}
	if queued == 0 {
		t.Error("nothing was queued")
	}
}
