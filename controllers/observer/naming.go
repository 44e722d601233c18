package observer

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/policy"
)

const (
	// nameWithin is how much later a flow is told, at most, for a Service's name.
	nameWithin = time.Second
	// lookupTimeout is how long the API server may take for an answer. One that is too late for its flow is
	// there for the next.
	lookupTimeout = 2 * time.Second
	// lookupEvery and lookupBurst bound how often one agent asks the API server, for the Services of a namespace;
	// serviceQuestion.cost says what other questions count.
	lookupEvery, lookupBurst = 2 * time.Second, 20
	// mostWaiting is how many flows wait at most.
	mostWaiting = 2048
)

// NamingOptions are what Naming is told. All fields must be set.
type NamingOptions struct {
	Services ServiceLister
	Names    Names
	// Tell gets each flow. It must not wait.
	Tell func(*flows.Flow)
	Log  logr.Logger
}

// Naming names the Services that flows have asked for. It reads them only when a flow comes that has asked for an
// address that is not known, and keeps them for a few minutes. A flow that has asked for nobody passes at once. Others
// are told in the order in which they have come, at most a second later than they would be, and without the
// name if that is not known by then.
type Naming struct {
	options          NamingOptions
	limit            *rate.Limiter
	wake             chan struct{} // holds a token while Start has not seen that a flow waits
	answered, failed atomic.Uint64

	mu      sync.Mutex
	running bool
	known   knownServices
	waiting []waitingFlow
	said    string // the last error in the log; empty: the API server has answered since
}

// waitingFlow is a flow that waits for its Service's name, or for others before it.
type waitingFlow struct {
	flow  *flows.Flow
	until time.Time
}

// lookup is a question and what has come of it.
type lookup struct {
	question serviceQuestion
	services []Service
	more     bool
	err      error
}

// NewNaming returns a Naming. Start runs it; before, and afterwards, flows are told at once, without names that
// are not known.
func NewNaming(o NamingOptions) *Naming {
	return &Naming{options: o, limit: rate.NewLimiter(rate.Every(lookupEvery), lookupBurst), wake: make(chan struct{}, 1)}
}

// Answered is how often the API server was asked and has answered.
func (n *Naming) Answered() uint64 { return n.answered.Load() }

// Failed is how often the API server was asked and has not answered, or refused to.
func (n *Naming) Failed() uint64 { return n.failed.Load() }

// NeedLeaderElection implements manager.LeaderElectionRunnable: every node's agent names Services.
func (*Naming) NeedLeaderElection() bool { return false }

// Tell tells a flow. It does not wait, and may be called from any goroutine.
func (n *Naming) Tell(f *flows.Flow) {
	if !wantsName(f) {
		n.options.Tell(f)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if len(n.waiting) == 0 || !n.running {
		if named, ask := n.name(f, now); ask == nil || !n.running {
			n.options.Tell(named)
			return
		}
	}
	if len(n.waiting) >= mostWaiting {
		n.tellFirst(n.waiting[0].flow)
	}
	n.waiting = append(n.waiting, waitingFlow{f, now.Add(nameWithin)})
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// wantsName reports whether a flow has asked for what may be a Service's and has no name.
func wantsName(f *flows.Flow) bool {
	return f.Asked != nil && f.Asked.Service == "" && f.Asked.Port != 0
}

// name is a flow with the name of its Service, if that is known; otherwise it is the flow itself, and ask is what to
// ask for it.
func (n *Naming) name(f *flows.Flow, now time.Time) (named *flows.Flow, ask *serviceQuestion) {
	service, ask := n.known.find(wantedOf(f, n.options.Names), now)
	if service == (policy.Key{}) {
		return f, ask
	}
	with, asked := *f, *f.Asked // others may read both
	asked.Namespace, asked.Service = service.Namespace, service.Name
	with.Asked = &asked
	return &with, nil
}

// tellFirst tells the first that waits, as it was or with its name.
func (n *Naming) tellFirst(f *flows.Flow) {
	n.waiting[0] = waitingFlow{}
	if n.waiting = n.waiting[1:]; len(n.waiting) == 0 {
		n.waiting = nil
	}
	n.options.Tell(f)
}

// Start asks the API server for what flows wait for, one question at a time, until ctx is done. It implements
// manager.Runnable.
func (n *Naming) Start(ctx context.Context) error {
	n.run(true)
	defer n.run(false)
	var asking sync.WaitGroup
	defer asking.Wait()
	answers := make(chan lookup, 1)
	for busy := false; ; {
		ask, wait := n.settle(busy)
		if ask != nil {
			busy = true
			asking.Go(func() { answers <- n.ask(ctx, *ask) })
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-n.wake:
		case <-timer.C:
		case l := <-answers:
			busy = false
			n.take(l, ctx.Err() != nil)
		}
		timer.Stop()
	}
}

// run begins to have flows wait, or ends it and tells those that do.
func (n *Naming) run(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.running = on
	for !on && len(n.waiting) > 0 {
		named, _ := n.name(n.waiting[0].flow, time.Now())
		n.tellFirst(named)
	}
}

// settle tells the flows, from the first that waits, whose Service is known, or which have waited long enough, or
// for which the API server is not to be asked now. It returns what to ask it for the next one, and for how long that
// one waits at most. While one question is under way (busy), there is no other.
func (n *Naming) settle(busy bool) (ask *serviceQuestion, wait time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for len(n.waiting) > 0 {
		first := n.waiting[0]
		named, ask := n.name(first.flow, now)
		if ask != nil && now.Before(first.until) {
			wait = first.until.Sub(now)
			if busy {
				return nil, wait
			}
			if n.limit.AllowN(now, ask.cost()) {
				return ask, wait
			}
		}
		n.tellFirst(named)
	}
	n.known.forget(now)
	return nil, servicesLast
}

// ask asks the API server.
func (n *Naming) ask(ctx context.Context, q serviceQuestion) lookup {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	services, more, err := q.ask(ctx, n.options.Services)
	return lookup{q, services, more, err}
}

// take takes in what has come of a question. That there is no answer is said once.
func (n *Naming) take(l lookup, ending bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.err == nil {
		n.answered.Add(1)
		n.said = ""
		n.known.learn(l.question, l.services, l.more, time.Now())
		return
	}
	n.failed.Add(1)
	n.known.rest(time.Now())
	if text := fmt.Sprint(l.err); text != n.said && !ending {
		n.said = text
		n.options.Log.Error(l.err, "Cannot read Services; flows are told without the names of those that were asked for", "retryAfter", restAfter.String())
	}
}
