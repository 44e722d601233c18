package controllers_test

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/lab"
)

var _ = Describe("A restart", func() {
	It("leaves no gap, in which denied packets pass or allowed ones are lost", func(ctx SpecContext) {
		w := newWorld()
		w.giveRange(w.nodeObject())
		w.namespace("shop", nil)
		web, _ := w.pod("shop", "web", set{"app": "web"})
		allowed, _ := w.pod("shop", "client", set{"app": "client"})
		denied, deniedPod := w.pod("shop", "other", nil)
		w.policy("shop", "web", onlyClients)
		first := w.watchCluster()
		w.eventually(ctx, arrive(allowed, web, 80), lost(denied, web, 80))
		streams := newStreams(web, allowed, denied)
		streams.advance()

		// A stop takes nothing away, and nothing works on in secret.
		before, done := w.table(), w.kernel.Attempts()
		first.stop()
		streams.advance()
		Expect(w.table()).To(Equal(before))
		relabel(deniedPod, set{"app": "client"})
		w.always(ctx, arrive(allowed, web, 80), lost(denied, web, 80))
		Expect(w.kernel.Attempts()).To(Equal(done))
		relabel(deniedPod, nil)
		streams.advance()

		// The next one takes the table over by replacing it, once, and goes on
		// from there.
		w.watchCluster()
		streams.advance()
		Expect(w.table()).To(Equal(before))
		adoption := w.kernel.Plans()[done:]
		Expect(adoption).To(HaveLen(1))
		Expect(adoption[0].Replace).To(BeTrue())
		streams.advance()

		streams.expectNoGap()

		w.policy("shop", "web", "podSelector: {}\ningress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 81}]}]\n")
		w.eventually(ctx, lost(allowed, web, 80), arrive(allowed, web, 81))
		for _, plan := range w.kernel.Plans()[done+1:] {
			Expect(plan.Replace).To(BeFalse())
		}
	})
})

// streams are two senders that send to one receiver all the time, the one what
// is allowed, the other what is not. Every datagram is from a port of its own,
// hence a new connection that the rules must judge, and none is sent again.
type streams struct {
	receiver net.PacketConn
	sent     [2]atomic.Int64 // by kind
	got      [2]atomic.Int64
	stop     chan struct{}
	ended    sync.WaitGroup
}

// The kinds of datagram, which each of them says in its one byte.
const (
	isAllowed = iota
	isDenied
)

func newStreams(to, allowed, denied *lab.Host) *streams {
	GinkgoHelper()
	s := &streams{stop: make(chan struct{})}
	target := netip.AddrPortFrom(to.IPs[0], 5000)
	Expect(to.Do(func() (err error) {
		s.receiver, err = net.ListenPacket("udp", target.String())
		return err
	})).To(Succeed())
	received := make(chan struct{})
	go func() {
		defer close(received)
		s.receive()
	}()
	s.ended.Go(func() { s.send(allowed, target, isAllowed) })
	s.ended.Go(func() { s.send(denied, target, isDenied) })
	DeferCleanup(func() {
		s.halt()
		s.receiver.Close()
		<-received
	})
	return s
}

func (s *streams) receive() {
	buffer := make([]byte, 16)
	for {
		n, _, err := s.receiver.ReadFrom(buffer)
		if err != nil {
			return
		}
		if n == 1 && buffer[0] <= isDenied {
			s.got[buffer[0]].Add(1)
		}
	}
}

func (s *streams) send(from *lab.Host, to netip.AddrPort, kind byte) {
	defer GinkgoRecover()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		conn, err := from.Dial(context.Background(), policy.UDP, to)
		Expect(err).NotTo(HaveOccurred())
		_, err = conn.Write([]byte{kind})
		conn.Close()
		Expect(err).NotTo(HaveOccurred())
		s.sent[kind].Add(1)
	}
}

// advance waits until some more of both kinds have been sent.
func (s *streams) advance() {
	GinkgoHelper()
	for kind := range s.sent {
		from := s.sent[kind].Load()
		Eventually(s.sent[kind].Load, soon, often).Should(BeNumerically(">", from+20))
	}
}

func (s *streams) halt() {
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	s.ended.Wait()
}

// expectNoGap stops sending and counts what arrived: all that is allowed, and
// nothing that is denied.
func (s *streams) expectNoGap() {
	GinkgoHelper()
	s.halt()
	Eventually(s.got[isAllowed].Load, soon, often).Should(Equal(s.sent[isAllowed].Load()), "allowed packets were lost")
	Expect(s.got[isDenied].Load()).To(BeZero(), "denied packets of %d arrived", s.sent[isDenied].Load())
}
