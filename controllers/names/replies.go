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
	// which no query is known is looked at again, and looks how often. Of TCP, other replies wait meanwhile.
	lookAgain, looks = 2 * time.Millisecond, 50
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
	// waiting are those that are held.
	waiting sync.WaitGroup
	// since is when the reply came that is looked at, in nanoseconds; 0: none is.
	since atomic.Int64
}

func newReplies(queue Queue, o Options, tracker *dns.Tracker, namesOf func(netip.Addr) []policy.DomainName, m *metrics) *replies {
	return &replies{queue: queue, enforcer: o.Enforcer, tracker: tracker, namesOf: namesOf, minTTL: o.MinTTL, metrics: m, log: o.Log}
}

// wait waits until none is held any more.
func (r *replies) wait() { r.waiting.Wait() }

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
// mostly is if it is not new.
func (r *replies) reply(q nft.Queued) {
	r.since.Store(time.Now().UnixNano())
	defer r.since.Store(0)
	p := packetOf(q.Datagram, q.Dst, q.Src)
	for i := 0; p.TCP && len(p.Payload) > 0 && i < looks && !r.tracker.Waits(p.Flow, time.Now()); i++ {
		time.Sleep(lookAgain)
	}
	answers, ignored := r.tracker.Reply(p, q.Time)
	if p.TCP || len(answers) > 0 || !slices.ContainsFunc(ignored, unknown) {
		r.decide(q, answers, ignored)
		return
	}
	p.Payload = slices.Clone(p.Payload) // it is the reader's again after this call
	r.waiting.Go(func() {
		for range looks {
			time.Sleep(lookAgain)
			if answers, ignored = r.tracker.Reply(p, time.Now()); !slices.ContainsFunc(ignored, unknown) {
				break
			}
		}
		r.decide(q, answers, ignored)
	})
}

// unknown reports whether a reply may have been ignored for want of a query that the agent has not read yet.
func unknown(why dns.Reason) bool {
	return why == dns.NotAsked || why == dns.WrongID || why == dns.WrongQuestion
}

// decide takes in what a reply says.
func (r *replies) decide(q nft.Queued, answers []dns.Answer, ignored []dns.Reason) {
	r.metrics.ignore(ignored)
	resolutions := r.resolutions(q.Dst.Addr(), answers, q.Time)
	if len(resolutions) == 0 {
		r.release(q.ID)
		return
	}
	if change := policy.Resolved(resolutions); !r.enforcer.Knows(change) {
		r.metrics.answer()
		r.enforcer.Feed(change)
	} // else another reply has said the same, perhaps a moment ago
	r.waiting.Go(func() {
		// Not the context of Start: when that ends, what waits is to go on all the same.
		ctx, cancel := context.WithTimeout(context.Background(), HoldAtMost)
		defer cancel()
		if err := r.enforcer.SyncFirst(ctx); err != nil {
			r.metrics.heldTooLong()
		}
		r.release(q.ID)
		r.metrics.heldFor(time.Since(q.Time))
	})
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
