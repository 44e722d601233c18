package enforcer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
)

// What staged policies would do is worked out by a second model, of the same changes, and a second table in the kernel
// (policy.Model.NewStaged, ruleset's staged.go). It has a loop of its own, so that nothing of it can fail what is
// enforced, and no error of it is waited for; the kernel carries out one transaction at a time, though, of both. Both are
// there only while a policy is staged.

// Staged is where the staged table is.
type Staged struct {
	// Kernel carries out plans for it, and Uninstall removes it; it is no error if it is not there.
	Kernel    Kernel
	Uninstall func() error
	// Flows are the established flows; nil: they are not looked at.
	Flows OpenFlows
	// Tell is told of those that would be cut, as the kernel tells of a packet, by one goroutine. It must be set if Flows
	// are.
	Tell func(nft.Logged)
}

// rehearsal keeps the staged table as long as a policy is staged.
type rehearsal struct {
	options Options
	// inForce judges flows by the policies' table.
	inForce func(nft.HookPoint, policy.Packet) bool
	// changed holds a token when a policy has come to be staged, or none is any more.
	changed chan struct{}

	mu      sync.Mutex
	current *world // nil: no policy is staged
	// rehearsed is what was reported last.
	rehearsed Rehearsed
}

// world is a model with the staged policies in force, and their table.
type world struct {
	inbox    *inbox
	policies *sharedTable
	flows    openFlows
}

func newRehearsal(o Options, policies *sharedTable) *rehearsal {
	if o.Staged == nil {
		return nil
	}
	return &rehearsal{options: o, inForce: policies.judge(), changed: make(chan struct{}, 1)}
}

// feed takes in changes that were fed to a model. The caller sees to it that the model does not change meanwhile. When
// a first policy is staged, it takes as long as to feed all of the cluster.
func (r *rehearsal) feed(m *policy.Model, changes []policy.Change) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.current == nil && m.HasSynced() && m.HasStaged():
		r.current = &world{newInbox(m.NewStaged(), nil), &sharedTable{}, newOpenFlows()}
	case r.current != nil && !m.HasStaged():
		r.current = nil
	case r.current != nil:
		r.current.inbox.feed(changes)
		return
	default:
		return
	}
	signal(r.changed)
}

// now is the world as it is; nil: no policy is staged.
func (r *rehearsal) now() *world {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

// table is the staged table; nil: there is none.
func (r *rehearsal) table() *sharedTable {
	if r == nil {
		return nil
	}
	if w := r.now(); w != nil {
		return w.policies
	}
	return nil
}

// endsOf is what is known of the two ends of a packet with the staged policies in force; is is false if none is staged.
func (r *rehearsal) endsOf(src, dst netip.Addr) (ends policy.Ends, is bool) {
	if r == nil {
		return ends, false
	}
	w := r.now()
	if w == nil {
		return ends, false
	}
	return ask(w.inbox, func(m *policy.Model) policy.Ends { return m.EndsOf(src, dst) }), true
}

// namers are the addresses of pods that policies with domain names are about, with the staged policies in force.
func (r *rehearsal) namers() map[netip.Addr][]policy.DomainName {
	if r == nil {
		return nil
	}
	w := r.now()
	if w == nil {
		return nil
	}
	return ask(w.inbox, (*policy.Model).Namers)
}

// rehearses reports whether a staged policy is about each pod that may have an address.
func (r *rehearsal) rehearses(ip netip.Addr) bool {
	if r == nil {
		return false
	}
	w := r.now()
	return w != nil && ask(w.inbox, func(m *policy.Model) bool { return m.RehearsedAt(ip) })
}

// run keeps the staged table until ctx is done. The table stays then, as all tables do.
func (r *rehearsal) run(ctx context.Context) {
	for ctx.Err() == nil {
		if w := r.now(); w != nil {
			r.keep(ctx, w)
		} else {
			r.remove(ctx)
		}
	}
}

// keep keeps the table of a world, until there is another one, or none.
func (r *rehearsal) keep(ctx context.Context, w *world) {
	o := r.options
	o.Ruleset, o.Report = o.Ruleset.ForStaged(), func(outcome Outcome) { r.report(w, outcome) }
	o.Watch, o.Bridge, o.PodLinks = nil, nil, nil
	l := newLoop(o.Staged.Kernel, o, w.inbox, w.policies, nil, nil)
	ctx, cancel := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() { _ = l.run(ctx) }) // without a watch it does not fail
	if r.options.Staged.Flows != nil {
		ended.Go(func() { w.flows.judge(ctx, r.options, r.inForce, w.policies.wouldTell) })
	}
	for r.now() == w && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-r.changed:
		}
	}
	cancel()
	ended.Wait()
}

// remove removes the table, and waits until a policy is staged.
func (r *rehearsal) remove(ctx context.Context) {
	backoff := newBackoff()
	for {
		var again <-chan time.Time
		if err := r.options.Staged.Uninstall(); err != nil {
			delay := backoff.Step()
			again = time.After(delay)
			r.options.Report(Troubled{What: "Cannot remove the table of staged policies, on which nothing depends that is enforced; trying again", Err: err, RetryAfter: delay})
		} else {
			r.reportRehearsed(Rehearsed{})
		}
		select {
		case <-ctx.Done():
			return
		case <-r.changed:
			return
		case <-again:
		}
	}
}

// reportRehearsed reports what is worked out, if that is not what it was.
func (r *rehearsal) reportRehearsed(now Rehearsed) {
	r.mu.Lock()
	same := r.rehearsed == now
	r.rehearsed = now
	r.mu.Unlock()
	if !same {
		r.options.Report(now)
	}
}

// report tells what has come of a world, of which nothing is enforced.
func (r *rehearsal) report(w *world, outcome Outcome) {
	switch o := outcome.(type) {
	case Committed:
		w.flows.committed(o)
	case Settled:
		r.reportRehearsed(ask(w.inbox, func(m *policy.Model) Rehearsed {
			return Rehearsed{Policies: len(m.StagedPolicies()), Pods: m.Rehearsed()}
		}))
	case Failed:
		r.options.Report(Troubled{What: "Cannot bring the table of staged policies up to date, on which nothing depends that is enforced; trying again", Err: o.Err, RetryAfter: o.RetryAfter})
	case Quarantined:
		if len(o.Refused) > 0 {
			r.options.Report(Troubled{What: "The kernel would refuse policies with the staged ones in force: they would isolate their pods and allow nothing", Err: fmt.Errorf("%v: %w", o.Refused, o.Err)})
		}
	case OverBudget:
		if len(o.Quarantined) > 0 {
			r.options.Report(Troubled{What: "There would be no room for policies with the staged ones in force: they would isolate their pods and allow nothing", Err: fmt.Errorf("%v: %w", o.Quarantined, errNoRoom)})
		}
	case Troubled:
		r.options.Report(o)
	}
}

// errNoRoom is why a staged policy would be quarantined.
var errNoRoom = errors.New("their namespace would be over its budget (--namespace-budget)")
