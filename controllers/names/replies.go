package names

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/podfence/podfence/names/dns"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/policy/packet"
	"github.com/podfence/podfence/ruleset/nft"
)

const (
	// HoldAtMost is how long a reply waits for the kernel at most.
	HoldAtMost = 500 * time.Millisecond
	// The kernel tells of a query before it holds the reply, but by another socket. lookAgain is after how long a reply of
	// which no query is known is looked at again; looks is how often, and looksTCP how often one over TCP is.
	lookAgain, looks, looksTCP = 2 * time.Millisecond, 50, 5
	// grace is for how long an answer counts beyond its time: that is told in whole seconds, and a pod may connect at the
	// end of the last one.
	grace = time.Second
	// longest is for how long an answer counts at most, whatever its time.
	longest = 24 * time.Hour
)

// replies are the replies that the kernel holds in a queue.
type replies struct {
	queue    Queue
	enforcer Enforcer
	tracker  *dns.Tracker
	// namesOf are the names that policies about a pod have, by one of its addresses.
	namesOf func(pod netip.Addr) []policy.DomainName
	minTTL  time.Duration
	metrics *metrics
	log     logr.Logger
	// ctx is done when nothing waits any more.
	ctx context.Context
	// since is when the reply came that is looked at, in nanoseconds; 0: none is.
	since atomic.Int64

	mu sync.Mutex
	// ending: no more is held. held are those that are.
	ending bool
	held   sync.WaitGroup
	// late are the packets of connections that wait for a query to be read, in order.
	late map[dns.Flow][]nft.Queued
	// uncommitted counts the replies that wait for a resolution, each without its time, to be in the kernel.
	uncommitted map[policy.Resolution]int
}

func newReplies(ctx context.Context, queue Queue, o Options, tracker *dns.Tracker, namesOf func(netip.Addr) []policy.DomainName, m *metrics) *replies {
	return &replies{
		queue: queue, enforcer: o.Enforcer, tracker: tracker, namesOf: namesOf, minTTL: o.MinTTL, metrics: m, log: o.Log, ctx: ctx,
		late: map[dns.Flow][]nft.Queued{}, uncommitted: map[policy.Resolution]int{},
	}
}

// end holds no more replies from now on, and waits until none is held.
func (r *replies) end() {
	r.mu.Lock()
	r.ending = true
	r.mu.Unlock()
	r.held.Wait()
}

// hold calls f, which lets a reply go on, in a goroutine of its own; if no more is to be held, it returns false.
func (r *replies) hold(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ending {
		r.held.Go(f)
	}
	return !r.ending
}

// hang reports whether a reply is looked at for so long that the agent seems to hang.
func (r *replies) hang() bool {
	since := r.since.Load()
	return since != 0 && time.Now().UnixNano()-since > int64(hangs)
}

// read decides about replies until the queue is closed.
func (r *replies) read() error {
	for {
		if err := r.queue.Receive(r.reply); err != nil {
			return err
		}
	}
}

// reply looks at a reply, and lets it go on: at once if it says nothing that counts, else when that is in the kernel, as it
// mostly is if it is not new. It waits for nothing itself.
func (r *replies) reply(q nft.Queued) {
	r.since.Store(time.Now().UnixNano())
	defer r.since.Store(0)
	p := packetOf(q.Datagram, q.Dst, q.Src)
	if p.TCP && r.waitsForQuery(p, q) {
		return
	}
	answers, ignored := r.tracker.Reply(p, q.Time)
	if p.TCP || len(answers) > 0 || !slices.ContainsFunc(ignored, unknown) {
		r.decide(q, answers, ignored)
		return
	}
	p.Payload = slices.Clone(p.Payload) // it is the reader's again after this call
	again := func() {
		for range looks {
			time.Sleep(lookAgain)
			if answers, ignored = r.tracker.Reply(p, time.Now()); !slices.ContainsFunc(ignored, unknown) {
				break
			}
		}
		r.decide(q, answers, ignored)
	}
	if !r.hold(again) {
		r.release(q.ID)
	}
}

// waitsForQuery has a packet of a connection wait of which no query was read yet, and those behind it.
func (r *replies) waitsForQuery(p dns.Packet, q nft.Queued) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, waits := r.late[p.Flow]
	if r.ending || !waits && (len(p.Payload) == 0 || r.tracker.Waits(p.Flow, q.Time)) {
		return false
	}
	q.Payload = slices.Clone(q.Payload)
	if r.late[p.Flow] = append(before, q); !waits {
		r.held.Go(func() { r.inOrder(p.Flow) })
	}
	return true
}

// inOrder decides about a connection's packets, one after the other, until none waits.
func (r *replies) inOrder(flow dns.Flow) {
	for i := 0; i < looksTCP && !r.tracker.Waits(flow, time.Now()); i++ {
		time.Sleep(lookAgain)
	}
	for {
		r.mu.Lock()
		packets := r.late[flow]
		if len(packets) == 0 {
			delete(r.late, flow)
			r.mu.Unlock()
			return
		}
		q := packets[0]
		r.late[flow] = packets[1:]
		r.mu.Unlock()
		answers, ignored := r.tracker.Reply(packetOf(q.Datagram, q.Dst, q.Src), q.Time)
		r.decide(q, answers, ignored)
	}
}

// unknown reports whether a reply may have been ignored for want of a query that the agent has not read yet.
func unknown(why dns.Reason) bool {
	return why == dns.NotAsked || why == dns.WrongID || why == dns.WrongQuestion
}

// decide takes in what a reply says.
func (r *replies) decide(q nft.Queued, answers []dns.Answer, ignored []dns.Reason) {
	r.metrics.ignore(ignored)
	resolutions := r.resolutions(q.Dst.Addr(), answers, q.Time)
	if !r.news(resolutions) {
		r.release(q.ID)
		return
	}
	wait := func() {
		ctx, cancel := context.WithTimeout(r.ctx, HoldAtMost)
		defer cancel()
		if err := r.enforcer.SyncFirst(ctx); err != nil {
			r.metrics.heldTooLong()
		}
		r.count(resolutions, -1)
		r.release(q.ID)
		r.metrics.heldFor(time.Since(q.Time))
	}
	if r.enforcer.CommitFailure() != nil || !r.hold(wait) {
		r.count(resolutions, -1)
		r.release(q.ID)
	}
}

// news feeds what is new of some resolutions. It reports whether to wait until they are in the kernel: not if they were
// known, unless another reply has said the same a moment ago. Who does not wait any more counts them out.
func (r *replies) news(resolutions []policy.Resolution) bool {
	if len(resolutions) == 0 {
		return false
	}
	change := policy.Resolved(resolutions)
	if r.enforcer.Knows(change) {
		return r.countIfWaiting(resolutions)
	}
	r.count(resolutions, 1)
	r.metrics.answer()
	r.enforcer.Feed(change)
	return true
}

// count counts that one more reply waits for resolutions, or one less.
func (r *replies) count(resolutions []policy.Resolution, by int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range resolutions {
		key.Expires = time.Time{}
		if r.uncommitted[key] += by; r.uncommitted[key] == 0 {
			delete(r.uncommitted, key)
		}
	}
}

// countIfWaiting is count by 1 if another reply waits for one of them.
func (r *replies) countIfWaiting(resolutions []policy.Resolution) bool {
	r.mu.Lock()
	waits := slices.ContainsFunc(resolutions, func(key policy.Resolution) bool {
		key.Expires = time.Time{}
		return r.uncommitted[key] > 0
	})
	r.mu.Unlock()
	if waits {
		r.count(resolutions, 1)
	}
	return waits
}

// resolutions are what answers to a pod say that counts: of names that policies about the pod mean.
func (r *replies) resolutions(pod netip.Addr, answers []dns.Answer, now time.Time) (all []policy.Resolution) {
	names := r.namesOf(pod)
	for _, answer := range answers {
		if slices.ContainsFunc(names, func(n policy.DomainName) bool { return n.Matches(answer.Name) }) {
			all = append(all, answer.Resolutions(pod, now.Add(grace), r.minTTL, longest)...)
		}
	}
	return all
}

func (r *replies) release(id uint32) {
	if err := r.queue.Release(id); err != nil {
		r.log.Error(err, "Cannot let a reply of DNS go on; the pod has to ask again")
	}
}

// packetOf is a packet between a pod and a resolver.
func packetOf(d nft.Datagram, pod, resolver netip.AddrPort) dns.Packet {
	return dns.Packet{
		Flow: dns.Flow{Pod: pod, Resolver: resolver, TCP: d.Protocol == packet.TCP}, Sequence: d.Sequence, Flags: d.Flags, Payload: d.Payload,
	}
}
