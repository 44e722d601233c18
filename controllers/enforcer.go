package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
)

// Kernel carries plans out, each whole or not at all.
type Kernel interface {
	Apply(ruleset.Plan) error
}

// Enforcer keeps the kernel's table equal to what the model says.
//
// Sources Feed it; Start commits: at once when idle, and what comes in during a
// commit together in the next. The first commit, once Begin has been called,
// replaces the whole table; each later one changes what has changed. One that
// fails leaves the kernel as it was, and is followed by a replacement.
type Enforcer struct {
	kernel  Kernel
	options ruleset.Options
	log     logr.Logger
	metrics *metrics

	// begin is closed when the sources have fed all there was at the start.
	begin     chan struct{}
	beginOnce sync.Once
	// wake holds one token while there may be something to commit.
	wake chan struct{}

	mu        sync.Mutex
	model     *policy.Model
	fed       uint64 // changes fed
	committed uint64 // changes in the kernel
	failure   error  // of the last commit
	waiting   map[chan struct{}]uint64

	// table is what the kernel holds; nil before the first commit and after a
	// failed one. Only Start touches it.
	table *ruleset.Table
}

// NewEnforcer returns an enforcer for a node.
func NewEnforcer(node string, kernel Kernel, options ruleset.Options, log logr.Logger, metrics *metrics) *Enforcer {
	return &Enforcer{
		kernel: kernel, options: options, log: log, metrics: metrics,
		begin:   make(chan struct{}),
		wake:    make(chan struct{}, 1),
		model:   policy.NewModel(node),
		waiting: map[chan struct{}]uint64{},
	}
}

// Feed changes the model. The change runs alone: what it reads to decide (a
// cache) is as new as what any earlier change has read.
func (e *Enforcer) Feed(change func(*policy.Model)) {
	e.mu.Lock()
	change(e.model)
	e.fed++
	e.mu.Unlock()
	e.wakeUp()
}

func (e *Enforcer) wakeUp() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Begin lets the first commit happen: the model holds all there is.
func (e *Enforcer) Begin() { e.beginOnce.Do(func() { close(e.begin) }) }

// Sync waits until everything fed before the call is in the kernel.
func (e *Enforcer) Sync(ctx context.Context) error {
	e.mu.Lock()
	if e.committed >= e.fed && e.committed > 0 {
		e.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	e.waiting[done] = e.fed
	e.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.waiting, done)
		return fmt.Errorf("waiting for a commit: %w", errors.Join(context.Cause(ctx), e.failure))
	}
}

// Ready is the readiness check: true once the first commit is in the kernel,
// and while the last one did not fail.
func (e *Enforcer) Ready(*http.Request) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.failure != nil:
		return fmt.Errorf("the last commit failed: %w", e.failure)
	case e.committed == 0:
		return errors.New("nothing committed yet")
	}
	return nil
}

// Start commits until ctx is done. It takes nothing away when it stops: the
// last rules stay in force. It implements manager.Runnable.
func (e *Enforcer) Start(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-e.begin:
	}
	e.Feed(func(*policy.Model) {}) // an empty cluster is a commit too
	retry := newBackoff()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.wake:
		}
		if err := e.commit(); err != nil {
			delay := retry.Step()
			e.log.Error(err, "Cannot commit; the kernel keeps the rules it has", "retryAfter", delay.String())
			time.AfterFunc(delay, e.wakeUp)
			continue
		}
		retry = newBackoff()
	}
}

// newBackoff waits 50 ms after a first failed commit, and up to half a minute
// after more.
func newBackoff() wait.Backoff {
	return wait.Backoff{Duration: 50 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 10, Cap: 30 * time.Second}
}

// commit brings the kernel up to date in one transaction.
func (e *Enforcer) commit() error {
	began := time.Now()
	fed, plan := e.plan()
	if !plan.Empty() {
		err := e.kernel.Apply(plan)
		e.metrics.committed(plan, err, time.Since(began))
		if err != nil {
			e.table = nil
			e.mu.Lock()
			e.failure = err
			e.mu.Unlock()
			return err
		}
		if plan.Replace {
			e.log.Info("Replaced the table", "operations", len(plan.Ops), "took", time.Since(began).String())
		} else {
			e.log.V(1).Info("Committed", "operations", len(plan.Ops), "took", time.Since(began).String())
		}
	}
	e.metrics.holds(e.table)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failure, e.committed = nil, fed
	for done, need := range e.waiting {
		if need <= fed {
			close(done)
			delete(e.waiting, done)
		}
	}
	return nil
}

// plan takes what has changed out of the model, and works out what that takes
// in the kernel: all of it if the kernel's table is not known.
func (e *Enforcer) plan() (fed uint64, plan ruleset.Plan) {
	e.mu.Lock()
	if e.table == nil {
		intent := e.model.Intent()
		fed = e.fed
		e.mu.Unlock()
		e.table = ruleset.Build(intent, e.options)
		return fed, e.table.Replacement()
	}
	delta := e.model.Take()
	fed = e.fed
	e.mu.Unlock()
	return fed, e.table.Update(delta)
}
