package kernel_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
)

// heard gathers a node's events.
type heard struct {
	mu     sync.Mutex
	events []nft.ConnEvent
}

func (h *heard) tell(e *nft.ConnEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, *e)
}

// all are the events so far.
func (h *heard) all() []nft.ConnEvent {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.events)
}

// of are the events about connections to an address and port, as they were asked for, of a protocol.
func (h *heard) of(protocol policy.Protocol, asked netip.AddrPort, ended bool) (events []nft.ConnEvent) {
	for _, e := range h.all() {
		if e.Protocol == protocol && e.Original.Dst == asked && e.Ended == ended {
			events = append(events, e)
		}
	}
	return events
}

// observe observes a node's connections until stop is called, which returns what Observe has. uncounted is what it
// has said when it began.
func observe(t *testing.T, events *kernel.ConnEvents, tell func(*nft.ConnEvent)) (stop func() error, uncounted error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	began, ended := make(chan error, 1), make(chan error, 1)
	go func() { ended <- events.Observe(ctx, func(uncounted error) { began <- uncounted }, tell) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { _ = stop() })
	select {
	case uncounted = <-began:
	case err := <-ended:
		t.Fatalf("it does not observe: %v", err)
	}
	return stop, uncounted
}

// openConnEvents opens those of a node.
func openConnEvents(t *testing.T, node *lab.Node, limit int) *kernel.ConnEvents {
	t.Helper()
	events := check.Value(kernel.OpenConnEvents(kernel.Options{NetNS: node.NetNS()}, "/proc/sys", limit))(t)
	t.Cleanup(func() { check.NoError(t, events.Close()) })
	return events
}

// setting is a sysctl of a node.
func setting(t *testing.T, node *lab.Node, name string) string {
	t.Helper()
	var text []byte
	check.NoError(t, node.Do(func() (err error) { text, err = os.ReadFile("/proc/sys/net/netfilter/" + name); return err }))
	return strings.TrimSpace(string(text))
}

const acct, ctEvents = "nf_conntrack_acct", "nf_conntrack_events"

// TestConnEvents: whoever observes is told of connections of every kind when they begin and when they end,
// with their ends before and after NAT, and with what they have carried. Before and after that, there is no
// event. The counts stay on, as somebody else may rely on them by then.
func TestConnEvents(t *testing.T) {
	g := NewWithT(t)
	n := newFlowNode(t, 1)
	client, server := n.pod("client", 2), n.pod("server", 4)
	runNFT(t, n.Node, `add table ip service; add chain ip service c { type nat hook prerouting priority -100; }; add rule ip service c ip daddr 10.96.0.1 tcp dport 443 dnat to 10.0.0.4:8080`)
	for _, name := range []string{"tcp_timeout_time_wait", "tcp_timeout_close", "udp_timeout", "udp_timeout_stream", "icmp_timeout", "icmpv6_timeout"} {
		check.NoError(t, n.SetSysctl("net/netfilter/nf_conntrack_"+name, "1"))
	}
	check.NoError(t, n.SetSysctl("net/netfilter/"+acct, "0"))
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
		check.Value(server.Serve(protocol, 8080))(t)
	}
	check.Value(n.Serve(policy.TCP, 8080))(t)

	events, all := openConnEvents(t, n.Node, 1_000_000), &heard{}
	stop, uncounted := observe(t, events, all.tell)
	g.Expect(uncounted).NotTo(HaveOccurred())
	g.Expect(setting(t, n.Node, acct)).To(Equal("1"))

	type want struct {
		protocol      policy.Protocol
		from          *lab.Host
		asked, real   string
		hook          nft.HookPoint
		packets, size uint64 // at least
	}
	wants := []want{
		{policy.TCP, client, "10.0.0.4:8080", "10.0.0.4:8080", nft.Forward, 6, 6 * 52},
		{policy.UDP, client, "10.0.0.4:8080", "10.0.0.4:8080", nft.Forward, 2, 2 * 33},
		{policy.TCP, client, "[fd00::4]:8080", "[fd00::4]:8080", nft.Forward, 6, 6 * 72},
		{policy.UDP, client, "[fd00::4]:8080", "[fd00::4]:8080", nft.Forward, 2, 2 * 53},
		{policy.TCP, client, "10.96.0.1:443", "10.0.0.4:8080", nft.Forward, 6, 6 * 52},
		{policy.TCP, client, "192.0.2.1:8080", "192.0.2.1:8080", nft.Input, 6, 6 * 52},
		{policy.TCP, &n.Host, "10.0.0.4:8080", "10.0.0.4:8080", nft.Output, 6, 6 * 52},
	}
	before := time.Now()
	for _, w := range wants {
		c := check.Value(w.from.Dial(t.Context(), w.protocol, netip.MustParseAddrPort(w.asked)))(t)
		g.Expect(lab.Echo(c, []byte("hello"), 5*time.Second)).To(Succeed(), "%+v", w)
		g.Expect(c.Close()).To(Succeed())
	}
	for _, w := range wants {
		asked := netip.MustParseAddrPort(w.asked)
		from := w.from.IP(asked.Addr())
		byHost := func(e nft.ConnEvent) bool {
			return e.Hook == w.hook && (w.hook == nft.Output || e.Original.Src.Addr() == from)
		}
		find := func(ended bool) func() []nft.ConnEvent {
			return func() []nft.ConnEvent {
				conntrackMarks(t, n.Node) // a list makes the kernel forget what has ended, which it else does up to a minute later
				return slices.DeleteFunc(all.of(w.protocol, asked, ended), func(e nft.ConnEvent) bool { return !byHost(e) })
			}
		}
		g.Eventually(find(false), "10s").Should(HaveLen(1), "%+v begins: %+v", w, all.all())
		g.Eventually(find(true), "30s").Should(HaveLen(1), "%+v ends: %+v", w, all.all())
		begun, ended := find(false)()[0], find(true)()[0]
		g.Expect(begun.Reply.Src).To(Equal(netip.MustParseAddrPort(w.real)), "%+v", w)
		g.Expect(begun.Reply.Dst).To(Equal(begun.Original.Src))
		g.Expect([]any{ended.Original, ended.Reply}).To(Equal([]any{begun.Original, begun.Reply}))
		g.Expect(begun.Time).To(BeTemporally("~", before, time.Minute))
		g.Expect(ended.Time).To(BeTemporally(">=", begun.Time))
		g.Expect([]any{begun.Counted, ended.Counted, begun.SampledOf, ended.Announced}).To(Equal([]any{false, true, uint32(1), false}))
		packets, size := ended.OriginalCounts.Packets+ended.ReplyCounts.Packets, ended.OriginalCounts.Bytes+ended.ReplyCounts.Bytes
		g.Expect(packets).To(And(BeNumerically(">=", w.packets), BeNumerically("<", 20)), "%+v", ended)
		g.Expect(size).To(And(BeNumerically(">=", w.size), BeNumerically("<", 20*100)), "%+v", ended)
		g.Expect(ended.OriginalCounts.Packets).To(BeNumerically(">", 0))
		g.Expect(begun.First()).To(Equal(policy.Packet{Src: begun.Original.Src.Addr(), Dst: begun.Reply.Src.Addr(), Protocol: w.protocol, DstPort: begun.Reply.Src.Port(), HopLimit: 64}))
	}
	pinged(t, n.Node, all, client, server)
	for _, e := range all.all() {
		g.Expect(e.Original.Src.Addr()).NotTo(Equal(server.IPs[0]), "nobody has begun this: %+v", e)
	}

	g.Expect(stop()).To(Succeed())
	g.Expect(setting(t, n.Node, acct)).To(Equal("1"), "somebody else may have switched it on meanwhile")
	g.Expect(events.Lost()).To(BeZero())
	told := len(all.all())
	c := check.Value(client.Dial(t.Context(), policy.TCP, netip.MustParseAddrPort("10.0.0.4:8080")))(t)
	defer c.Close()
	g.Expect(lab.Echo(c, []byte("unheard"), 5*time.Second)).To(Succeed())
	time.Sleep(100 * time.Millisecond)
	g.Expect(all.all()).To(HaveLen(told), "nobody observes")

	// And again, by one who has found the counts on, and leaves them on.
	check.NoError(t, n.SetSysctl("net/netfilter/"+acct, "1"))
	stop, _ = observe(t, events, all.tell)
	again := check.Value(client.Dial(t.Context(), policy.UDP, netip.MustParseAddrPort("10.0.0.4:8080")))(t)
	defer again.Close()
	g.Expect(lab.Echo(again, []byte("hello"), 5*time.Second)).To(Succeed())
	g.Eventually(func() int { return len(all.of(policy.UDP, netip.MustParseAddrPort("10.0.0.4:8080"), false)) }, "10s").Should(Equal(2))
	g.Expect(stop()).To(Succeed())
	g.Expect(setting(t, n.Node, acct)).To(Equal("1"))
}

// pinged has a pod ping another, over IPv4 and IPv6, and looks for the events of that.
func pinged(t *testing.T, node *lab.Node, all *heard, client, server *lab.Host) {
	t.Helper()
	g := NewWithT(t)
	for i, ping := range []policy.Packet{{Protocol: policy.ICMP, ICMPType: 8}, {Protocol: policy.ICMPv6, ICMPType: 128}} {
		ping.Src, ping.Dst = client.IPs[i], server.IPs[i]
		check.NoError(t, client.Send(check.Value(lab.Craft(ping, 77, []byte("hello")))(t)))
		asked := netip.AddrPortFrom(ping.Dst, 0)
		for _, ended := range []bool{false, true} {
			find := func() []nft.ConnEvent {
				conntrackMarks(t, node)
				// Other messages are those of neighbour discovery.
				return slices.DeleteFunc(all.of(ping.Protocol, asked, ended), func(e nft.ConnEvent) bool { return e.ICMPType != ping.ICMPType })
			}
			g.Eventually(find, "30s").Should(HaveLen(1), "%v, ended %t: %+v", ping, ended, all.all())
			e := find()[0]
			ping.HopLimit = 64
			g.Expect(e.First()).To(Equal(ping))
			g.Expect(e.ICMPCode).To(BeZero())
			if ended {
				g.Expect([]uint64{e.OriginalCounts.Packets, e.ReplyCounts.Packets}).To(Equal([]uint64{1, 1}))
				g.Expect(e.OriginalCounts.Bytes).To(Equal(e.ReplyCounts.Bytes))
			}
		}
	}
}

// TestConnEventsOff: where the kernel is set to tell nobody, or cannot count, whoever observes is told so.
func TestConnEventsOff(t *testing.T) {
	g := NewWithT(t)
	n := newFlowNode(t, 1)
	events := openConnEvents(t, n.Node, 1000)
	was := setting(t, n.Node, ctEvents)
	check.NoError(t, n.SetSysctl("net/netfilter/"+ctEvents, "0"))
	fail := func() { t.Error("it says that it listens") }
	err := events.Observe(t.Context(), func(error) { fail() }, func(*nft.ConnEvent) { fail() })
	g.Expect(err).To(MatchError(kernel.ErrNoConnEvents))
	g.Expect(err).To(MatchError(ContainSubstring("sysctl -w net.netfilter.nf_conntrack_events=")))
	check.NoError(t, n.SetSysctl("net/netfilter/"+ctEvents, was))

	// Settings of which one is not there.
	proc := t.TempDir()
	check.NoError(t, os.MkdirAll(filepath.Join(proc, "net/netfilter"), 0o755))
	without := check.Value(kernel.OpenConnEvents(kernel.Options{NetNS: n.NetNS()}, proc, 1000))(t)
	defer without.Close()
	err = without.Observe(t.Context(), func(error) { fail() }, func(*nft.ConnEvent) { fail() })
	g.Expect(err).To(And(MatchError(kernel.ErrNoConnEvents), MatchError(ContainSubstring("CONFIG_NF_CONNTRACK_EVENTS"))))
	check.NoError(t, os.WriteFile(filepath.Join(proc, "net/netfilter", ctEvents), []byte("2\n"), 0o644))
	all := &heard{}
	stop, uncounted := observe(t, without, all.tell)
	g.Expect(uncounted).To(MatchError(ContainSubstring("sysctl -w net.netfilter.nf_conntrack_acct=1")))
	client, server := n.pod("client", 2), n.pod("server", 4)
	check.Value(server.Serve(policy.UDP, 80))(t)
	g.Expect(client.Exchange(policy.UDP, netip.AddrPortFrom(server.IPs[0], 80), 5*time.Second)).To(Succeed())
	check.NoError(t, n.FlushConntrack())
	ended := func() []nft.ConnEvent { return all.of(policy.UDP, netip.AddrPortFrom(server.IPs[0], 80), true) }
	g.Eventually(ended, "10s").Should(HaveLen(1))
	g.Expect(ended()[0].Counted).To(BeFalse())
	g.Expect(stop()).To(Succeed())
}

// TestConnEventsSample: of more connections than are to be told, a sample is, and each of it from its
// beginning to its end.
func TestConnEventsSample(t *testing.T) {
	g := NewWithT(t)
	const connections, limit = 4000, 100
	n := newFlowNode(t, 1)
	client, server := n.pod("client", 2), n.pod("server", 4)
	events, all := openConnEvents(t, n.Node, limit), &heard{}
	stop, _ := observe(t, events, all.tell)
	begin(t, client, server.IPs[0], connections)
	check.NoError(t, n.FlushConntrack())
	g.Eventually(func() bool { return slices.ContainsFunc(all.all(), func(e nft.ConnEvent) bool { return e.Ended }) }, "10s").Should(BeTrue())
	time.Sleep(200 * time.Millisecond)
	g.Expect(stop()).To(Succeed())
	g.Expect(events.Lost()).To(BeZero())
	told := map[nft.ConnEnds]int{}
	for _, e := range all.all() {
		if e.Ended && e.SampledOf > 1 {
			told[e.Original]++
		}
	}
	// Who is told of in the end was in every sample before.
	for _, e := range all.all() {
		if !e.Ended && told[e.Original] > 0 {
			told[e.Original]++
		}
	}
	g.Expect(told).To(And(Not(BeEmpty()), HaveEach(2)))
	g.Expect(len(all.all())).To(BeNumerically("<", connections/2))
}

// begin has a pod begin so many connections with another, of a datagram each.
func begin(t testing.TB, client *lab.Host, server netip.Addr, connections int) {
	t.Helper()
	var fd int
	check.NoError(t, client.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	defer unix.Close(fd)
	for port := range connections {
		if err := unix.Sendto(fd, []byte{1}, 0, &unix.SockaddrInet4{Port: 1 + port, Addr: server.As4()}); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatal(err)
		}
	}
}
