package names

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/names/dns"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// Enforcer is what is fed, and knows who to learn for.
type Enforcer interface {
	Feed(changes ...policy.Change) (fed uint64)
	// Knows reports whether to feed a change would change nothing.
	Knows(c policy.Change) bool
	// SyncFirst waits until what was fed before is in the kernel.
	SyncFirst(ctx context.Context) error
	// CommitFailure is why nothing that is fed gets into the kernel; nil: it does.
	CommitFailure() error
	// Namers are the addresses of pods that policies with domain names are about, with these names.
	Namers() map[netip.Addr][]policy.DomainName
	// Resolved is how many names are resolved, and to how many addresses; Evicted how many there was no room for.
	Resolved() (names, addresses int)
	Evicted() int
	// NextElapsed is when the next resolution expires; zero: there is none.
	NextElapsed() time.Time
}

// Table carries out plans for the names table.
type Table interface {
	Apply(nft.Plan) error
	// Uninstall removes it; it is no error if it is not there.
	Uninstall() error
}

// Queue reads replies that the kernel holds, until Release lets them go on.
type Queue interface {
	Receive(do func(nft.Queued)) error
	Release(id uint32) error
	Close() error
}

// Queries reads what pods ask.
type Queries interface {
	Receive(do func(nft.Datagram)) (lost int, err error)
	Close() error
}

// Heartbeat sends packets by which the kernel knows that the agent lives.
type Heartbeat interface {
	To() netip.AddrPort
	Beat() error
	Close() error
}

// Kernel is where DNS is handed over.
type Kernel struct {
	Table Table
	// Queue is the nfqueue of replies, and the nflog group of queries.
	Queue         uint16
	OpenQueue     func() (Queue, error)
	OpenQueries   func() (Queries, error)
	OpenHeartbeat func() (Heartbeat, error)
}

// Options are what a Learner is told.
type Options struct {
	Enforcer Enforcer
	// Kernel is where DNS is handed over; nil: nothing is learned of what pods are told.
	Kernel *Kernel
	// Wanted is called when there is somebody to learn for, so that the resolvers are to be found out. It must not wait.
	Wanted func()
	// Exact is told of the names that are no wildcards, in order, whenever these have changed: the agent resolves them
	// itself. It must not wait.
	Exact func(names []policy.DomainName)
	// MinTTL is for how long an answer counts at least.
	MinTTL time.Duration
	Log    logr.Logger
}

// Learner learns for the pods of a node. Its methods may be called from any goroutine.
type Learner struct {
	options Options
	// changed holds a token when there may be others to learn for.
	changed chan struct{}
	// namers are who to learn for, and resolvers whom they ask.
	namers    atomic.Pointer[map[netip.Addr][]policy.DomainName]
	resolvers atomic.Pointer[[]netip.AddrPort]
	tracker   *dns.Tracker
	metrics   *metrics
	// exact are the names that Exact was told of last.
	exact []policy.DomainName
}

// NewLearner returns a learner. Start runs it.
func NewLearner(o Options) *Learner {
	l := &Learner{options: o, changed: make(chan struct{}, 1), tracker: dns.NewTracker(), metrics: newMetrics()}
	l.namers.Store(&map[netip.Addr][]policy.DomainName{})
	l.resolvers.Store(&[]netip.AddrPort{})
	return l
}

// Metrics are the learner's.
func (l *Learner) Metrics() []prometheus.Collector { return l.metrics.collectors(l.options.Enforcer) }

// names are those that policies about a pod have, by one of its addresses.
func (l *Learner) names(pod netip.Addr) []policy.DomainName { return (*l.namers.Load())[pod] }

// Committed notes what was committed: if it is about policies or pods, there may be others to learn for.
func (l *Learner) Committed(c enforcer.Committed) {
	if c.Intent != nil || len(c.Delta.Policies)+len(c.Delta.Subjects) > 0 {
		signal(l.changed)
	}
}

// SetResolvers says whose answers count: the addresses and ports that pods send to.
func (l *Learner) SetResolvers(resolvers []netip.AddrPort) {
	l.resolvers.Store(&resolvers)
	signal(l.changed)
}

const (
	// beatEach is how often the heartbeat beats: some times in each HeartbeatTimeout.
	beatEach = ruleset.HeartbeatTimeout * time.Second / 4
	// hangs is after how long a reply that is looked at is taken for a sign that the agent hangs.
	hangs = 500 * time.Millisecond
	// elapseEach is how often is looked for what has expired. The kernel has closed it by itself.
	elapseEach = time.Second
	// lookEach is how often is looked for others to learn for, besides after each commit: of staged policies nobody tells.
	lookEach = 5 * time.Second
	// drain is how long replies that have just come are waited for, before the queue is closed.
	drain = 10 * time.Millisecond
	// retryAfter is when is tried again what has failed.
	retryAfter = 5 * time.Second
)

// Start learns until ctx is done. It implements manager.Runnable.
func (l *Learner) Start(ctx context.Context) error {
	var beside sync.WaitGroup
	defer beside.Wait()
	beside.Go(func() { wait.UntilWithContext(ctx, func(context.Context) { signal(l.changed) }, lookEach) })
	beside.Go(func() { wait.UntilWithContext(ctx, l.elapse, elapseEach) })
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return nil
		case <-l.changed:
		}
		l.look()
		if l.options.Kernel == nil || len(*l.namers.Load()) == 0 {
			continue
		}
		if err := l.learn(ctx); err != nil && ctx.Err() == nil {
			l.options.Log.Error(err, "Cannot learn what pods are told by DNS: new addresses of domain names stay closed; trying again", "retryAfter", retryAfter.String())
			l.metrics.failed()
			select {
			case <-ctx.Done():
			case <-time.After(retryAfter):
				signal(l.changed)
			}
		}
	}
	return nil
}

// look finds out who to learn for.
func (l *Learner) look() {
	namers := l.options.Enforcer.Namers()
	for pod := range *l.namers.Swap(&namers) {
		if _, still := namers[pod]; !still {
			l.tracker.Forget(pod)
		}
	}
	l.metrics.learnFor(len(namers))
	if len(namers) > 0 {
		l.options.Wanted()
	}
	set := map[policy.DomainName]struct{}{}
	for _, names := range namers {
		for _, name := range names {
			if !name.Wildcard() {
				set[name] = struct{}{}
			}
		}
	}
	if exact := slices.Sorted(maps.Keys(set)); !slices.Equal(exact, l.exact) {
		l.exact = exact
		l.options.Exact(exact)
	}
}

// learn keeps the names table, and reads queries and replies, until there is nobody to learn for, or ctx is done.
func (l *Learner) learn(ctx context.Context) (err error) {
	k := l.options.Kernel
	queue, err := k.OpenQueue()
	if err != nil {
		return fmt.Errorf("replies: %w", err)
	}
	queries, err := k.OpenQueries()
	if err != nil {
		return errors.Join(fmt.Errorf("queries: %w", err), queue.Close())
	}
	heartbeat, err := k.OpenHeartbeat()
	if err != nil {
		return errors.Join(err, queries.Close(), queue.Close())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	held := newReplies(ctx, queue, l.options, l.tracker, l.names, l.metrics)
	var readers sync.WaitGroup
	readers.Go(func() { cancel(l.readQueries(queries)) })
	readers.Go(func() { cancel(held.read()) })
	l.options.Log.Info("Learning what pods are told by DNS", "pods", len(*l.namers.Load()), "resolvers", len(*l.resolvers.Load()))
	err = l.keep(ctx, heartbeat, held)
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	// What waits in the queue is dropped when that is closed. So first nothing comes any more, then what has come is read, and
	// what waits goes on.
	err = errors.Join(err, k.Table.Uninstall())
	time.Sleep(drain)
	held.end()
	err = errors.Join(err, heartbeat.Close(), queries.Close(), queue.Close())
	readers.Wait()
	cancel(nil)
	return err
}

func (l *Learner) empty() bool { return len(*l.namers.Load()) == 0 }

// keep keeps the names table as long as there is somebody to learn for, and the heartbeat as long as replies are looked at.
func (l *Learner) keep(ctx context.Context, heartbeat Heartbeat, held *replies) error {
	k := l.options.Kernel
	table := ruleset.BuildNames(askers(*l.namers.Load()), *l.resolvers.Load(), ruleset.NamesOptions{Queue: k.Queue, QueryGroup: k.Queue, Heartbeat: heartbeat.To()})
	if err := k.Table.Apply(table.Replacement()); err != nil {
		return err
	}
	beat := time.NewTicker(beatEach)
	defer beat.Stop()
	for {
		if !held.hang() {
			if err := heartbeat.Beat(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-beat.C:
		case <-l.changed:
			if l.look(); l.empty() {
				return nil
			}
			plan := table.UpdateNames(askers(*l.namers.Load()), *l.resolvers.Load())
			if plan.Empty() {
				continue
			}
			if err := k.Table.Apply(plan); err != nil {
				return err
			}
		}
	}
}

// askers are the addresses of the pods to learn for, in order.
func askers(namers map[netip.Addr][]policy.DomainName) []netip.Addr {
	return slices.SortedFunc(maps.Keys(namers), netip.Addr.Compare)
}

// elapse feeds that time passes, if that ends something.
func (l *Learner) elapse(context.Context) {
	now := time.Now()
	if next := l.options.Enforcer.NextElapsed(); !next.IsZero() && !next.After(now) {
		l.options.Enforcer.Feed(policy.Elapsed(now))
	}
}

// readQueries notes what pods ask, until the log is closed.
func (l *Learner) readQueries(queries Queries) error {
	for {
		lost, err := queries.Receive(func(d nft.Datagram) { l.metrics.ignore(l.tracker.Query(packetOf(d, d.Src, d.Dst), d.Time)) })
		if err != nil {
			return err
		}
		l.metrics.lostQueries(lost)
	}
}

// signal leaves one token in a channel.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
