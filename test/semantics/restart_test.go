package semantics_test

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

// TestA30_RulesOutliveTheAgent: what an agent has put in force stays when it
// goes, and the next one replaces it without a window.
func TestA30_RulesOutliveTheAgent(t *testing.T) {
	text := base + `policy db/p {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: store}}}], ports: [{protocol: UDP, port: 7}, {port: 9}]}]}`
	expected := `
		allow shop/web -> db/pg udp 7
		deny  shop/web -> db/pg udp 8
		deny  ops/cron -> db/pg udp 7
	`
	c := cluster(t, text)
	if err := c.Disconnect(); err != nil {
		t.Fatal(err)
	}
	c.expect(expected)

	// Many network plugins give pods addresses that their Node does not name. Then
	// nothing is closed but what the rules of a pod deny.
	for i := range c.s.Nodes {
		node := c.s.Nodes[i].DeepCopy()
		node.Spec.PodCIDR, node.Spec.PodCIDRs = "", nil
		c.s.Nodes[i] = node
	}

	// What is established goes on through all of it.
	c.serve("db/pg", policy.TCP, 9)
	conn := c.dial("shop/web", policy.TCP, netip.AddrPortFrom(c.ip("db/pg", "6"), 9))
	// Two streams, of which each packet is a connection of its own, while the
	// table is replaced again and again over new connections to the kernel.
	const allowed, denied, replacements = 7, 8, 50
	streams := []*stream{c.stream("shop/web", "db/pg", allowed), c.stream("shop/web", "db/pg", denied)}
	var wait sync.WaitGroup
	stop := make(chan struct{})
	for _, s := range streams {
		wait.Go(func() { s.run(t, stop) })
	}
	// Somebody else's chain, of the ingress chain's priority, keeps denied packets for
	// most of a millisecond. A base chain that came in place of podfence's would be
	// before it, and the one that goes behind: the kernel would switch while packets
	// are between the two, and neither judge them.
	jumps := func(n int, chain string) string { return strings.Repeat("jump "+chain+"\n", n) }
	c.nft("inet", "slow", "chain rules {\n"+strings.Repeat("ip saddr 192.0.2.1 accept\n", 64)+"}\n"+
		"chain more {\n"+jumps(64, "rules")+"}\nchain most {\n"+jumps(16, "more")+"}\n")
	const slow = "table inet slow { chain base { type filter hook forward priority filter - 9; udp dport 8 jump most; }; }\n"
	for range replacements {
		if err := c.NFT(slow + "delete chain inet slow base\n" + slow); err != nil {
			t.Fatal(err)
		}
		if err := c.Reconnect(); err != nil {
			t.Fatal(err)
		}
		if err := c.Replace(c.s, c.Options()); err != nil {
			t.Fatal(err)
		}
		if err := lab.Echo(conn, []byte("still there?"), time.Second); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wait.Wait()
	for _, s := range streams {
		arrived := s.settled()
		t.Logf("port %d: %d sent, %d arrived over %d replacements", s.port, s.sent, arrived, replacements)
		if s.sent < 100 {
			t.Errorf("port %d: %d packets are too few to tell", s.port, s.sent)
		}
		if s.port == denied && arrived > 0 {
			t.Errorf("%d of %d denied packets arrived", arrived, s.sent)
		}
		// The kernel fills new interval sets only just after it has switched to
		// the rules that look into them (nft_set_commit_update at the end of
		// nf_tables_commit), and a packet can be under way across the switch:
		// an allowed first packet may meet an empty set and be dropped, to be
		// sent again: on a slow machine at most of the replacements. A window as
		// long as a replacement would cost tens of packets each.
		if lost := int64(s.sent) - arrived; s.port == allowed && lost > 2*replacements {
			t.Errorf("%d of %d allowed packets lost over %d replacements", lost, s.sent, replacements)
		}
	}
	c.expect(expected)
}

// stream sends UDP packets from ever new source ports and counts arrivals.
type stream struct {
	from     *lab.Host
	packet   policy.Packet
	port     uint16
	receiver net.PacketConn
	sent     int
	arrived  atomic.Int64
	done     chan struct{}
}

func (c *fenced) stream(from, to string, port uint16) *stream {
	c.t.Helper()
	src, dst := c.ip(from, "4"), c.ip(to, "4")
	s := &stream{
		from: c.host(from), port: port, done: make(chan struct{}),
		packet:   policy.Packet{Src: src, Dst: dst, Protocol: policy.UDP, DstPort: port},
		receiver: c.listen(to, "udp", netip.AddrPortFrom(dst, port).String()),
	}
	go func() {
		defer close(s.done)
		buffer := make([]byte, 2048)
		for {
			if _, _, err := s.receiver.ReadFrom(buffer); err != nil { // closed
				return
			}
			s.arrived.Add(1)
		}
	}()
	return s
}

// run sends until it is told to stop.
func (s *stream) run(t *testing.T, stop <-chan struct{}) {
	for port := uint16(40000); ; port++ {
		select {
		case <-stop:
			return
		default:
		}
		packet, err := lab.Craft(s.packet, max(port, 1024), []byte("stream"))
		if err == nil {
			err = s.from.Send(packet)
		}
		if err != nil {
			t.Error(err)
			return
		}
		s.sent++
		time.Sleep(200 * time.Microsecond)
	}
}

// settled counts the arrivals once no more come.
func (s *stream) settled() int64 {
	for {
		before := s.arrived.Load()
		time.Sleep(100 * time.Millisecond)
		if s.arrived.Load() == before {
			_ = s.receiver.Close()
			<-s.done
			return before
		}
	}
}
