package resolver

import (
	"context"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/podfence/podfence/policy"
)

const (
	// together is how many questions are under way at once.
	together = 16
	// perSecond is how many questions are asked in a second, on average, and burst how many of them at once. Questions
	// over TCP, after one over UDP, are not counted.
	perSecond, burst = 500, 50
)

// Options are what a Resolver is told.
type Options struct {
	// Sink gets what names are resolved to, in order, each address again whenever a resolver has said it again. It is called from one
	// goroutine. While it is busy, what comes gathers, and nothing waits for it but the end.
	Sink func([]policy.Resolution)
	// Dial opens connections to resolvers; nil: net.Dialer's DialContext.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Resolver keeps what names are resolved to up to date. All its methods may be called from any goroutine, before Start too.
type Resolver struct {
	dial   dialer
	outbox *outbox
	limit  *rate.Limiter
	// changed has a token while the loop has not seen what names and resolvers are now.
	changed chan struct{}

	mu sync.Mutex
	// names and resolvers are those to ask for and to ask, as they were said last. They are replaced, and never changed.
	names     map[string]struct{}
	resolvers []netip.AddrPort
	stats     Stats
}

// Stats are what a Resolver has counted since it was made.
type Stats struct {
	// Names are the names that are asked for.
	Names int
	// Asked are the questions that were asked: A and AAAA of a name are two. Those under way are neither answered nor
	// failed.
	Asked uint64
	// Answered are those that were answered with addresses, and Negative those that were answered by that there are none.
	Answered, Negative uint64
	// OverTCP are those that were asked again over TCP, as the answer was too long for UDP.
	OverTCP uint64
	// Failed are those that were not answered, by reason.
	Failed map[Failure]uint64
	// NextDue is when the next question is due; zero: none waits. It may be past, where there are no resolvers.
	NextDue time.Time
}

// New returns a Resolver, which asks nothing before Start.
func New(o Options) *Resolver {
	r := &Resolver{
		dial: o.Dial, outbox: newOutbox(o.Sink), limit: rate.NewLimiter(perSecond, burst), changed: make(chan struct{}, 1),
		stats: Stats{Failed: map[Failure]uint64{}},
	}
	if r.dial == nil {
		r.dial = (&net.Dialer{}).DialContext
	}
	return r
}

// SetNames says which names to ask for from now on, and no others: exact ones, as policy.DomainNameOf returns them.
func (r *Resolver) SetNames(names []policy.DomainName) {
	wanted := make(map[string]struct{}, len(names))
	for _, name := range names {
		wanted[string(name)] = struct{}{}
	}
	r.set(func() { r.names = wanted })
}

// SetResolvers says whom to ask from now on, the best first. Without any, nothing is asked.
func (r *Resolver) SetResolvers(resolvers []netip.AddrPort) {
	resolvers = slices.Clone(resolvers)
	r.set(func() { r.resolvers = resolvers })
}

// set changes something, and wakes the loop.
func (r *Resolver) set(change func()) {
	r.mu.Lock()
	change()
	r.mu.Unlock()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// Stats are the counters as they are now.
func (r *Resolver) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	stats := r.stats
	stats.Failed = maps.Clone(stats.Failed)
	return stats
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: every node's agent asks.
func (*Resolver) NeedLeaderElection() bool { return false }

// result is what has come of a question.
type result struct {
	*entry
	server  netip.AddrPort
	answer  answer
	overTCP bool
	failure Failure
}

// Start asks until ctx is done. It implements manager.Runnable, and is called once.
func (r *Resolver) Start(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { r.outbox.run(ctx) })
	l := loop{Resolver: r, schedule: newSchedule(), servers: newServers()}
	results := make(chan result, together)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for underWay := 0; ; {
		now := time.Now()
		for underWay < together && l.may(now) {
			e, server := l.take(now)
			underWay++
			running.Go(func() {
				a, overTCP, failure := r.dial.exchange(ctx, server, e.question)
				results <- result{e, server, a, overTCP, failure}
			})
		}
		l.count(func(s *Stats) { s.NextDue = l.schedule.next() })
		timer.Stop()
		if wait, is := l.wait(now); is && underWay < together {
			timer.Reset(wait)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-r.changed:
			l.update(time.Now())
		case done := <-results:
			underWay--
			l.done(done, time.Now())
		}
	}
}

// loop is what belongs to the goroutine of Start.
type loop struct {
	*Resolver
	schedule *schedule
	servers  *servers
}

// update takes over which names and resolvers there are now.
func (l loop) update(now time.Time) {
	l.mu.Lock()
	names, resolvers := l.names, l.resolvers
	l.mu.Unlock()
	l.schedule.want(names, now)
	if !slices.Equal(resolvers, l.servers.all) {
		l.servers.replace(resolvers)
		l.schedule.hurry(now)
	}
	l.count(func(s *Stats) { s.Names = len(names) })
}

// may reports whether a question is due and can be asked, by the rate that is allowed. It uses that up.
func (l loop) may(now time.Time) bool {
	next := l.schedule.next()
	return !next.IsZero() && !next.After(now) && len(l.servers.all) > 0 && l.limit.AllowN(now, 1)
}

// wait is how long to wait until something can be asked; false: until something changes.
func (l loop) wait(now time.Time) (time.Duration, bool) {
	next := l.schedule.next()
	switch {
	case next.IsZero() || len(l.servers.all) == 0:
		return 0, false
	case next.After(now):
		return next.Sub(now), true
	}
	return time.Second / perSecond, true // the rate is used up
}

// take takes the question that is to be asked now, and says at which resolver.
func (l loop) take(now time.Time) (*entry, netip.AddrPort) {
	e := l.schedule.take(now)
	l.count(func(s *Stats) { s.Asked++ })
	return e, l.servers.pick(now, e.at)
}

// done takes in what has come of a question, and says when to ask it again.
func (l loop) done(r result, now time.Time) {
	l.servers.note(r.server, r.failure != Timeout && r.failure != Network, now)
	l.count(func(s *Stats) { s.add(r) })
	if !l.schedule.wanted(r.entry) {
		return
	}
	timing, random := timingOf(len(l.schedule.entries), perSecond), rand.Float64()
	if r.failure != "" {
		r.failed, r.at = r.failed+1, r.server
		l.schedule.put(r.entry, now.Add(retry(r.failed, len(l.servers.all), random)))
		return
	}
	r.failed, r.at = 0, netip.AddrPort{}
	l.outbox.put(r.answer.resolutions(now, timing))
	l.schedule.put(r.entry, now.Add(timing.again(r.answer, random)))
}

// count changes what is counted.
func (l loop) count(change func(*Stats)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.stats)
}

// add counts what has come of a question.
func (s *Stats) add(r result) {
	switch {
	case r.failure != "":
		s.Failed[r.failure]++
	case r.answer.positive():
		s.Answered++
	default:
		s.Negative++
	}
	if r.overTCP {
		s.OverTCP++
	}
}
