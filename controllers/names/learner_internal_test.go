package names

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/recorder"
)

var (
	pod      = netip.MustParseAddrPort("10.244.1.2:4000")
	resolver = netip.MustParseAddrPort("10.96.0.10:53")
)

// fakeEnforcer knows nothing but what it is fed, and commits when it is let.
type fakeEnforcer struct {
	mu     sync.Mutex
	namers map[netip.Addr][]policy.DomainName
	fed    []string
	// commit ends each wait for a commit; nil: there is nothing to wait for.
	commit chan struct{}
}

func (f *fakeEnforcer) Feed(changes ...policy.Change) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range changes {
		f.fed = append(f.fed, c.String())
	}
	return 0
}

// Knows takes all resolutions of as many addresses for the same.
func (f *fakeEnforcer) Knows(c policy.Change) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.fed, c.String())
}

func (f *fakeEnforcer) SyncFirst(ctx context.Context) error {
	f.mu.Lock()
	commit := f.commit
	f.mu.Unlock()
	if commit == nil {
		return nil
	}
	select {
	case <-commit:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fakeEnforcer) Namers() map[netip.Addr][]policy.DomainName {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.namers
}

func (f *fakeEnforcer) CommitFailure() error { return nil }
func (f *fakeEnforcer) Resolved() (int, int) { return 0, 0 }
func (f *fakeEnforcer) Evicted() int         { return 0 }

func (f *fakeEnforcer) NextElapsed() time.Time { return time.Time{} }

func (f *fakeEnforcer) learned() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.fed)
}

// fakeKernel is a queue, a log of queries and a heartbeat, of which at most one each is open at a time.
type fakeKernel struct {
	*recorder.Kernel
	t           *testing.T
	replies     chan nft.Queued
	queries     chan nft.Datagram
	released    chan uint32
	breaks      chan error
	mu          sync.Mutex
	open, beats int
	uninstalled int
	broken      error
}

func newFakeKernel(t *testing.T) *fakeKernel {
	return &fakeKernel{Kernel: &recorder.Kernel{}, t: t, replies: make(chan nft.Queued, 100), queries: make(chan nft.Datagram, 100), released: make(chan uint32, 100), breaks: make(chan error)}
}

func (k *fakeKernel) Uninstall() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.uninstalled++
	return nil
}

// handle is one of the three that can be opened.
type handle struct {
	*fakeKernel
	closed chan struct{}
}

func (k *fakeKernel) handle() (*handle, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.broken != nil {
		return nil, k.broken
	}
	k.open++
	return &handle{k, make(chan struct{})}, nil
}

func (h *handle) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open--
	close(h.closed)
	return nil
}

type fakeQueue struct{ *handle }

var errClosed = errors.New("closed")

func (q fakeQueue) Receive(do func(nft.Queued)) error {
	select {
	case <-q.closed:
		return errClosed
	case err := <-q.breaks:
		return err
	case reply := <-q.replies:
		do(reply)
		return nil
	}
}

func (q fakeQueue) Release(id uint32) error {
	q.released <- id
	return nil
}

type fakeQueries struct{ *handle }

func (q fakeQueries) Receive(do func(nft.Datagram)) (int, error) {
	select {
	case <-q.closed:
		return 0, errClosed
	case query := <-q.queries:
		do(query)
		return 0, nil
	}
}

type fakeHeartbeat struct{ *handle }

func (h fakeHeartbeat) To() netip.AddrPort { return netip.MustParseAddrPort("127.0.0.1:9") }

func (h fakeHeartbeat) Beat() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.beats++
	return nil
}

// learning is a learner that learns for the pod.
func learning(t *testing.T) (*Learner, *fakeEnforcer, *fakeKernel) {
	t.Helper()
	e := &fakeEnforcer{namers: map[netip.Addr][]policy.DomainName{pod.Addr(): {"*.example.com", "api.example.net"}}}
	k := newFakeKernel(t)
	l := NewLearner(Options{
		Enforcer: e, MinTTL: time.Second, Wanted: func() {}, Exact: func([]policy.DomainName) {}, Log: logr.Discard(),
		Kernel: &Kernel{
			Table:         k,
			OpenQueue:     func() (Queue, error) { h, err := k.handle(); return fakeQueue{h}, err },
			OpenQueries:   func() (Queries, error) { h, err := k.handle(); return fakeQueries{h}, err },
			OpenHeartbeat: func() (Heartbeat, error) { h, err := k.handle(); return fakeHeartbeat{h}, err },
		},
	})
	l.SetResolvers([]netip.AddrPort{resolver})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		check.NoError(t, <-done)
		if k.open != 0 {
			t.Errorf("%d are left open", k.open)
		}
	})
	return l, e, k
}

// message is a DNS message; to is the address in it, if it is a reply.
func message(t *testing.T, id uint16, name string, to netip.Addr) []byte {
	t.Helper()
	q := dnsmessage.Question{Name: dnsmessage.MustNewName(name + "."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: id, Response: to.IsValid()}, Questions: []dnsmessage.Question{q}}
	if to.IsValid() {
		m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 30}, Body: &dnsmessage.AResource{A: to.As4()}}}
	}
	packed, err := m.Pack()
	check.NoError(t, err)
	return packed
}

func (k *fakeKernel) asks(id uint16, name string) {
	k.queries <- nft.Datagram{Time: time.Now(), Protocol: policy.UDP, Src: pod, Dst: resolver, Payload: message(k.t, id, name, netip.Addr{})}
}

func (k *fakeKernel) isTold(packet uint32, id uint16, name string) {
	k.replies <- nft.Queued{ID: packet, Datagram: nft.Datagram{Time: time.Now(), Protocol: policy.UDP, Src: resolver, Dst: pod, Payload: message(k.t, id, name, netip.MustParseAddr("203.0.113.1"))}}
}

// goesOn expects that a packet goes on within a time.
func (k *fakeKernel) goesOn(packet uint32, within time.Duration) {
	k.t.Helper()
	select {
	case got := <-k.released:
		if got != packet {
			k.t.Errorf("packet %d goes on, want %d", got, packet)
		}
	case <-time.After(within):
		k.t.Errorf("packet %d is still held after %s", packet, within)
	}
}

const soon = 10 * time.Second

// TestReplyWaits: a reply with something new waits until that is in the kernel; others go on at once, also while it waits.
func TestReplyWaits(t *testing.T) {
	_, e, k := learning(t)
	e.mu.Lock()
	e.commit = make(chan struct{})
	e.mu.Unlock()
	k.asks(1, "www.example.com")
	k.isTold(1, 1, "www.example.com")
	check.Eventually(t, soon, "it is learned", func() error {
		if e.learned() != 1 {
			return fmt.Errorf("%d changes were fed", e.learned())
		}
		return nil
	})
	k.asks(2, "www.example.org")
	k.isTold(2, 2, "www.example.org")
	k.goesOn(2, soon)
	close(e.commit)
	k.goesOn(1, soon)
	if e.learned() != 1 {
		t.Errorf("fed was %v", e.fed)
	}
}

// TestReplyWaitsForAnother: a reply that says what another has just said waits for the same commit.
func TestReplyWaitsForAnother(t *testing.T) {
	_, e, k := learning(t)
	e.commit = make(chan struct{})
	k.asks(1, "www.example.com")
	k.asks(2, "www.example.com")
	k.isTold(1, 1, "www.example.com")
	k.isTold(2, 2, "www.example.com")
	select {
	case id := <-k.released:
		t.Fatalf("packet %d goes on before what it says is in the kernel", id)
	case <-time.After(HoldAtMost / 4):
	}
	close(e.commit)
	first, second := <-k.released, <-k.released
	if first+second != 3 || e.learned() != 1 {
		t.Errorf("packets %d and %d go on, and fed was %v", first, second, e.fed)
	}
}

// TestKnownReplyDoesNotWait: a reply that says nothing new goes on while a commit is under way, as it was said long ago.
func TestKnownReplyDoesNotWait(t *testing.T) {
	_, e, k := learning(t)
	e.commit = make(chan struct{})
	k.asks(1, "www.example.com")
	k.asks(2, "known.example.com")
	k.isTold(1, 1, "www.example.com")
	check.Eventually(t, soon, "it is learned", func() error {
		if e.learned() != 1 {
			return errors.New("it is not")
		}
		return nil
	})
	k.isTold(2, 2, "known.example.com") // the fake takes it for the same, and so for known
	k.goesOn(2, HoldAtMost/2)
	close(e.commit)
	k.goesOn(1, soon)
}

// TestConnectionDelaysNobodyElse: packets of a connection whose queries are not known keep no other reply waiting, and stay in
// order.
func TestConnectionDelaysNobodyElse(t *testing.T) {
	_, _, k := learning(t)
	k.asks(100, "www.example.com")
	for i := range uint32(20) {
		k.replies <- nft.Queued{ID: i, Datagram: nft.Datagram{Time: time.Now(), Protocol: policy.TCP, Src: resolver, Dst: pod, Sequence: i, Payload: []byte("?")}}
	}
	k.isTold(100, 100, "www.example.com")
	var order []uint32
	for range 21 {
		select {
		case id := <-k.released:
			order = append(order, id)
		case <-time.After(soon):
			t.Fatalf("only these go on: %v", order)
		}
	}
	if order[0] != 100 || !slices.IsSorted(order[1:]) {
		t.Errorf("they go on in this order: %v", order)
	}
}

// TestReplyIsNotHeldForLong: it goes on though the kernel does not get what it says.
func TestReplyIsNotHeldForLong(t *testing.T) {
	_, e, k := learning(t)
	e.commit = make(chan struct{})
	k.asks(1, "www.example.com")
	k.isTold(1, 1, "www.example.com")
	k.goesOn(1, soon)
}

// TestQueryIsReadLater: the log may be read after the queue.
func TestQueryIsReadLater(t *testing.T) {
	_, e, k := learning(t)
	k.isTold(1, 1, "www.example.com")
	time.Sleep(lookAgain)
	k.asks(1, "www.example.com")
	k.goesOn(1, soon)
	if e.learned() != 1 {
		t.Errorf("fed was %v", e.fed)
	}
	k.isTold(2, 2, "www.example.com") // which nobody has asked
	k.goesOn(2, soon)
	if e.learned() != 1 {
		t.Errorf("what nobody has asked is fed: %v", e.fed)
	}
}

// TestLearnsWhileThereIsSomebody: the table, the queue and the log are there as long as a policy with names is about a pod.
func TestLearnsWhileThereIsSomebody(t *testing.T) {
	l, e, k := learning(t)
	state := func(open int, uninstalled int) func() error {
		return func() error {
			k.mu.Lock()
			defer k.mu.Unlock()
			if k.open != open || k.uninstalled != uninstalled || open > 0 && k.beats == 0 {
				return fmt.Errorf("%d are open, %d beats, %d times uninstalled", k.open, k.beats, k.uninstalled)
			}
			return nil
		}
	}
	check.Eventually(t, soon, "it learns", state(3, 0))
	if plans := k.Plans(); len(plans) == 0 || !plans[0].Replace {
		t.Errorf("the plans are %v", plans)
	}
	all := e.namers
	e.mu.Lock()
	e.namers = nil
	e.mu.Unlock()
	l.Committed(enforcer.Committed{Delta: policy.Delta{Policies: map[policy.Key]*policy.Policy{{}: nil}}})
	check.Eventually(t, soon, "it ends", state(0, 1))
	e.mu.Lock()
	e.namers = all
	e.mu.Unlock()
	l.Committed(enforcer.Committed{Intent: &policy.Intent{}})
	check.Eventually(t, soon, "it learns again", state(3, 1))
}

// TestExactNames: the agent is told which names it can resolve itself, and when that has changed.
func TestExactNames(t *testing.T) {
	var told [][]policy.DomainName
	e := &fakeEnforcer{namers: map[netip.Addr][]policy.DomainName{pod.Addr(): {"*.example.com", "b.example.net"}, resolver.Addr(): {"a.example.net", "b.example.net"}}}
	wanted := 0
	l := NewLearner(Options{Enforcer: e, Wanted: func() { wanted++ }, Exact: func(names []policy.DomainName) { told = append(told, names) }, Log: logr.Discard()})
	l.look()
	l.look()
	e.namers = nil
	l.look()
	if len(told) != 2 || !slices.Equal(told[0], []policy.DomainName{"a.example.net", "b.example.net"}) || len(told[1]) != 0 || wanted != 2 {
		t.Errorf("told is %v, and wanted %d times", told, wanted)
	}
}

// TestQueueBreaks: if the queue breaks, all is closed, and opened again.
func TestQueueBreaks(t *testing.T) {
	_, _, k := learning(t)
	opened := func(n int) {
		t.Helper()
		check.Eventually(t, soon, "it learns", func() error {
			k.mu.Lock()
			defer k.mu.Unlock()
			if k.open != n || len(k.Plans()) == 0 {
				return fmt.Errorf("%d are open", k.open)
			}
			return nil
		})
	}
	opened(3)
	k.mu.Lock()
	k.broken = errors.New("it can't be opened now")
	k.mu.Unlock()
	k.breaks <- errors.New("no buffer space available")
	opened(0)
	k.mu.Lock()
	k.broken = nil
	k.mu.Unlock()
	opened(3)
}
