package observer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/podfence/podfence/api/flows"
)

const (
	// missesTurn is for how long a denial waits until its near miss is looked for, and missesWait until it is
	// known: whose turn comes last is mostly not looked for in vain.
	missesTurn, missesWait = 60 * time.Millisecond, 100 * time.Millisecond
	// missesWaiting is how many denials wait at most. Who comes too many has all of them told as they are.
	missesWaiting = 1000
	// missesPause is how many times longer than looking for a near miss is the pause after it: looking takes
	// an eleventh of a processor at most.
	missesPause = 10
)

// Misses tells denials with their near miss, in the order in which they come. A denial that has not got its near
// miss in time, because there are many or the policies are large, is told without. A goroutine of its own looks
// for them, so that neither who reads the kernel's log nor a commit waits.
type Misses struct {
	nearest func(*flows.Flow) string
	tell    func(*flows.Flow)
	without atomic.Uint64
	// come holds one token while there may be a denial that waits.
	come chan struct{}

	mu sync.Mutex
	// waiting are the denials that are not told yet, the oldest first.
	waiting []*waitingDenial
	// ended: Start has returned, and nothing waits any more.
	ended bool
}

// waitingDenial is a denial, and since when it waits.
type waitingDenial struct {
	flow  *flows.Flow
	since time.Time
}

// NewMisses returns Misses, which find near misses by nearest, and hand denials on to tell. Tell must not wait,
// and must not call Misses. Start runs them.
func NewMisses(nearest func(*flows.Flow) string, tell func(*flows.Flow)) *Misses {
	return &Misses{nearest: nearest, tell: tell, come: make(chan struct{}, 1)}
}

// Without is how many denials were told before it was known whether they have a near miss.
func (m *Misses) Without() uint64 { return m.without.Load() }

// NeedLeaderElection implements manager.LeaderElectionRunnable: every node's agent tells.
func (*Misses) NeedLeaderElection() bool { return false }

// Tell has a denial told, which nobody else may change any more. It does not wait, and may be called from any
// goroutine.
func (m *Misses) Tell(f *flows.Flow) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.waiting = append(m.waiting, &waitingDenial{f, time.Now()})
	if m.ended || len(m.waiting) > missesWaiting {
		m.tellAll()
		return
	}
	select {
	case m.come <- struct{}{}:
	default:
	}
}

// tellAll tells all that wait as they are. The caller holds mu.
func (m *Misses) tellAll() {
	for _, w := range m.waiting {
		if mayBeMissed(w.flow) {
			m.without.Add(1)
		}
		m.tell(w.flow)
	}
	m.waiting = nil
}

// Start tells denials until ctx is done, and then those that wait. It implements manager.Runnable.
func (m *Misses) Start(ctx context.Context) error {
	questions := make(chan question)
	answering := make(chan struct{})
	go func() {
		defer close(answering)
		m.answer(ctx, questions)
	}()
	for w := m.next(ctx); w != nil; w = m.next(ctx) {
		if !mayBeMissed(w.flow) {
			m.told(w, "", true)
			continue
		}
		miss, known := ask(ctx, questions, w)
		m.told(w, miss, known)
	}
	m.mu.Lock()
	m.ended = true
	m.tellAll()
	m.mu.Unlock()
	<-answering
	return nil
}

// next is the denial that has waited longest; nil: ctx is done.
func (m *Misses) next(ctx context.Context) *waitingDenial {
	for {
		m.mu.Lock()
		var first *waitingDenial
		if len(m.waiting) > 0 {
			first = m.waiting[0]
		}
		m.mu.Unlock()
		if ctx.Err() != nil {
			return nil
		}
		if first != nil {
			return first
		}
		select {
		case <-m.come:
		case <-ctx.Done():
		}
	}
}

// told tells a denial, with its near miss if that is known by now, unless it was told meanwhile.
func (m *Misses) told(w *waitingDenial, miss string, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.waiting) == 0 || m.waiting[0] != w {
		return
	}
	m.waiting = m.waiting[1:]
	if known {
		w.flow.NearestMiss = miss
	} else {
		m.without.Add(1)
	}
	m.tell(w.flow)
}

// question asks for the near miss of a denial. The answer, which has room for it, gets it.
type question struct {
	flow   *flows.Flow
	answer chan<- string
}

// ask asks for a near miss, and waits for it as long as the denial does.
func ask(ctx context.Context, questions chan<- question, w *waitingDenial) (miss string, known bool) {
	turn, cancel := context.WithDeadline(ctx, w.since.Add(missesTurn))
	defer cancel()
	answer := make(chan string, 1)
	select {
	case questions <- question{w.flow, answer}:
	case <-turn.Done():
		return "", false
	}
	end, cancel := context.WithDeadline(ctx, w.since.Add(missesWait))
	defer cancel()
	select {
	case miss = <-answer:
		return miss, true
	case <-end.Done():
		return "", false
	}
}

// answer answers questions until ctx is done, and pauses after each.
func (m *Misses) answer(ctx context.Context, questions <-chan question) {
	for {
		select {
		case <-ctx.Done():
			return
		case q := <-questions:
			began := time.Now()
			q.answer <- m.nearest(q.flow)
			pause := time.NewTimer(missesPause * time.Since(began))
			select {
			case <-ctx.Done():
				pause.Stop()
				return
			case <-pause.C:
			}
		}
	}
}
