package controllers

import (
	"context"
	"errors"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// Kernel carries plans out, each whole or not at all.
type Kernel interface {
	// Apply carries a plan out. If it is the plan that the kernel refuses, the error
	// is a *nft.Refusal; any other is of the moment.
	Apply(nft.Plan) error
	// Check fails as Apply would, and leaves all as it is.
	Check(nft.Plan) error
}

// Enforcer keeps the kernel's table equal to what the model says.
//
// Sources Feed it; Start commits: at once when idle, and what comes in during a
// commit together in the next. The first commit, once Begin has been called,
// replaces the whole table; each later one changes what has changed. One that
// fails leaves the kernel as it was, and is followed by a replacement; so is what
// somebody else does to the table (repairs.go). Policies for which the kernel
// refuses that too are closed (refusals.go).
type Enforcer struct {
	kernel  Kernel
	flows   Flows // nil: established flows are left alone
	watch   Watch // nil: what others do is not noticed
	options ruleset.Options
	log     logr.Logger
	metrics *metrics
	health  *Health
	// node is the name of the node; needsNode says that there must be a Node of it.
	node      string
	needsNode bool

	// begin is closed when the sources have fed everything that there was at the start.
	begin     chan struct{}
	beginOnce sync.Once
	// wake holds one token while there may be something to commit. judge holds one while all
	// established flows may have to be judged again. affected are the addresses whose flows
	// have to be judged again.
	wake, judge chan struct{}
	affected    affected
	// cut are the flows that judging has revoked.
	cut revocations

	mu        sync.Mutex
	model     *policy.Model
	loaded    bool   // everything that there was at the start has been fed
	fed       uint64 // how many changes have been fed
	committed uint64 // how many of them are in the kernel
	staging   bool   // after the last plan, parts of large policies still wait to be handed out
	staged    bool   // the last plan had such a part
	planned   uint64 // how many changes were in the last plan
	failure   error  // why the last commit has failed; nil if it has not
	// fought says who undoes what is committed again and again. It counts until foughtUntil.
	fought      error
	foughtUntil time.Time
	waiting     map[chan struct{}]*waiter
	unusable    map[string]string // by Node, the InternalIPs that the log has named as unusable
	changed     chan struct{}     // closed at the next change; nil if nobody waits for one
	policies    policyVersions    // which versions of the API server's policies the model has
	// lastAddr returns another Node's address as an earlier agent has left it in the tunnel. It
	// is nil if there was no earlier agent.
	lastAddr func(node string) netip.Addr

	// table is what the kernel holds, or will once it takes it; nil before the
	// first commit. Only commit changes it, under tableMu.
	tableMu sync.RWMutex
	table   *ruleset.Table
	// known says that the kernel holds exactly this table. It is false before the first commit
	// and after a commit that has failed. Only Start's goroutine uses it.
	known bool
	// undone says that somebody else has changed the kernel's table, while table itself is
	// still as it should be. Only Start's goroutine uses it.
	undone bool
	// repairs decides when to repair. repairing says that there is something to repair, and
	// noticed since when. Only Start's goroutine uses them.
	repairs   repairs
	repairing bool
	noticed   time.Time
	refusals  refusals
	events    *events // nil if there is no API server to send Events to
	// about is what the log says about the commit under way. ofFlows are the addresses whose
	// flows that commit may change; nil stands for all flows. Only Start's goroutine uses them.
	about   content
	ofFlows map[netip.Addr]bool
	// guard is the bridge's table; nil where podfence does not connect the pods.
	guard *guard
	// links are the pods' links; nil where podfence connects the pods. moved holds a
	// token when the links may have changed.
	links *links
	moved chan struct{}
	// nodes holds a token when nodes have changed.
	nodes chan struct{}
}

// newEnforcer returns an enforcer for a node.
func newEnforcer(kernel Kernel, o Options, metrics *metrics, events *events) *Enforcer {
	log := o.Log.WithName("enforcer")
	model := policy.NewModel(o.Node)
	if o.IgnorePodCIDRs {
		model.IgnorePodCIDRs()
	}
	if o.NamespaceBudget != 0 {
		model.SetBudget(o.NamespaceBudget)
	}
	model.RememberPodCIDRs(o.LastPodCIDRs)
	health := newHealth(o, metrics, events)
	health.Set(NotStarted, errNotStarted)
	var lastAddr func(string) netip.Addr
	if o.CNI != nil {
		lastAddr = o.CNI.LastAddr
	}
	return &Enforcer{
		health: health, node: o.Node, needsNode: o.API != nil,
		kernel: kernel, flows: o.Flows, watch: o.Watch, options: o.Ruleset, log: log, metrics: metrics,
		events:   events,
		refusals: newRefusals(),
		begin:    make(chan struct{}),
		wake:     make(chan struct{}, 1),
		judge:    make(chan struct{}, 1),
		affected: newAffected(),
		cut:      newRevocations(),
		nodes:    make(chan struct{}, 1),
		guard:    newGuard(o.CNI),
		links:    newLinks(kernel, o.PodLinks),
		moved:    make(chan struct{}, 1),
		model:    model,
		waiting:  map[chan struct{}]*waiter{},
		unusable: map[string]string{},
		policies: policyVersions{},
		lastAddr: lastAddr,
	}
}

// Start commits until ctx is done. It takes nothing away when it stops: the
// last rules stay in force. It implements manager.Runnable.
func (e *Enforcer) Start(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-e.begin:
	}
	e.health.Set(NodeUnknown, e.nodeKnown())
	e.Feed() // an empty cluster is a commit too
	var beside sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer beside.Wait()
	defer cancel()
	beside.Go(func() { e.announce(ctx) })
	beside.Go(func() { newMemory(e.log, e.most).follow(ctx) })
	if e.links != nil {
		beside.Go(func() { e.links.follow(ctx, func() { signal(e.moved) }) })
	}
	if e.flows != nil {
		beside.Go(func() { e.judgeFlows(ctx) })
		beside.Go(func() { e.judgeAffected(ctx) })
	}
	retry := newBackoff()
	again := time.NewTicker(budgetAgain)
	defer again.Stop()
	var unfinished <-chan time.Time // when to go on with a search
	var rest <-chan time.Time       // when to commit more of what waits
	for {
		if len(e.refusals.left) > 0 && unfinished == nil {
			unfinished = time.After(searchPause)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-e.wake:
		case <-rest:
		case <-e.moved:
			e.lookForLinks()
		case <-e.tampered():
		case <-again.C:
			e.mu.Lock()
			e.model.Reconsider()
			e.mu.Unlock()
		case <-unfinished:
			unfinished = nil
			if err := e.resume(); err != nil {
				e.log.Error(err, "Cannot find out which policies the kernel refuses; trying again")
			}
		}
		if err := e.distrust(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		began := time.Now()
		err := e.commit()
		if rest = nil; err == nil {
			retry = newBackoff()
			if e.staging {
				// Twice as long as this has taken is left to others, and the processor: what
				// waits is somebody's who has written very much.
				rest = time.After(2 * time.Since(began))
			}
			continue
		}
		// What changes meanwhile does not shorten the wait: it would be refused
		// along with the rest. But who has changed the table may be why.
		delay := retry.Step()
		e.log.Error(err, "Cannot commit; the kernel keeps the rules it has", "retryAfter", delay.String())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		case <-e.tampered():
		}
		signal(e.wake)
	}
}

// newBackoff waits 50 ms after a first failed commit, and up to 5 s after more:
// a pod that starts waits as long.
func newBackoff() wait.Backoff {
	return wait.Backoff{Duration: 50 * time.Millisecond, Factor: 2, Steps: 8, Cap: 5 * time.Second}
}

// commit brings the kernel up to date.
func (e *Enforcer) commit() error {
	var (
		fed uint64
		err error
	)
	if !e.known {
		// The other table's state may be no better known, and it is small.
		e.guard.forget()
		e.links.forget()
		err = e.links.prepare(e)
	}
	if err == nil {
		fed, err = e.apply()
	}
	if err == nil {
		err = e.guard.commit(e)
	}
	if err == nil {
		err = e.links.commit(e)
	}
	if err != nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.failure = err
		e.health.Set(CommitFailed, err)
		return err
	}
	e.metrics.holds(e.table)
	e.repaired()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.metrics.refused.Set(float64(e.model.ClosedPolicies()))
	e.metrics.overBudget.Set(float64(e.model.OverBudget()))
	e.failure, e.committed = nil, fed
	e.health.Set(CommitFailed, e.commitFailure())
	e.health.Set(NotStarted, nil)
	for done, w := range e.waiting {
		if w.taken {
			close(done)
			delete(e.waiting, done)
		}
	}
	return nil
}

// apply brings the table up to date in one transaction. If the kernel refuses
// that, it tries the table built anew; if it refuses this too, the same without the
// rules of the policies that are to blame. It returns how many of the changes are
// in the kernel then.
func (e *Enforcer) apply() (fed uint64, err error) {
	var first error // of a table that was not built anew
	for {
		began := time.Now()
		anew := !e.known && !e.undone
		fed, plan := e.plan()
		if plan.Empty() {
			return fed, nil
		}
		err := e.kernel.Apply(plan)
		e.metrics.committed(plan, err, time.Since(began))
		if err == nil {
			e.applied(plan, time.Since(began))
			if first != nil {
				e.metrics.mismatches.Inc()
				e.log.Error(first, "The kernel has refused a change, and taken all of it anew: the table was not as podfence had left it")
			}
			return fed, nil
		}
		e.known, e.undone = false, false // but keep the table: flows stay judged by it
		if !refused(err) {
			return 0, err
		}
		if !anew {
			first = err
			continue
		}
		first = nil // it was a policy's fault, or nobody's that is known
		if excluded, why := e.exclude(); !excluded {
			return 0, errors.Join(err, why)
		}
	}
}

// applied notes that the kernel holds the table.
func (e *Enforcer) applied(plan nft.Plan, took time.Duration) {
	e.known, e.undone = true, false
	switch {
	case e.flows == nil:
	case plan.Replace || e.ofFlows == nil:
		signal(e.judge)
	default:
		e.affected.add(e.ofFlows)
	}
	if plan.Replace {
		e.sayRefused()
		e.log.Info("Replaced the table", "pods", e.about.pods, "policies", e.about.policies, "elements", e.table.Size().Elements,
			"podCIDRs", e.about.podCIDRs, "operations", len(plan.Ops), "took", took.String())
		// To read and to build all of it took far more than it takes to hold.
		go debug.FreeOSMemory()
	} else {
		e.log.V(1).Info("Committed", append(e.about.news, "operations", len(plan.Ops), "took", took.String())...)
	}
}

// plan takes what has changed out of the model, and works out what that takes
// in the kernel: all of it if the kernel's table is not known. What somebody else has
// undone is done again from the table, which is there; after a failure the table is
// built anew too, which takes as long again.
func (e *Enforcer) plan() (fed uint64, plan nft.Plan) {
	e.mu.Lock()
	if !e.known && !e.undone {
		intent := e.model.Intent()
		e.staging, e.staged = false, false
		fed = e.fed
		e.noteTaken(fed)
		e.tellBudget()
		e.mu.Unlock()
		signal(e.nodes)
		e.about = content{pods: len(intent.Subjects), policies: len(intent.Policies), podCIDRs: texts(intent.PodCIDRs)}
		table := ruleset.Build(intent, e.options)
		e.links.into(table)
		e.tableMu.Lock()
		e.table = table
		e.tableMu.Unlock()
		return fed, table.Replacement()
	}
	// What has come in while part of what waits was committed is committed before the rest.
	alone := e.staged && e.fed > e.planned+1 // one is that there is more
	take := e.model.Take
	if alone {
		take = e.model.TakeReady
	}
	delta := take()
	fed = e.fed
	e.noteTaken(fed)
	e.tellBudget()
	staging := e.model.Staging()
	if staging {
		e.fed++ // the rest is for the next commits: who waits for it waits for these
	}
	e.staging, e.staged = staging, staging && !alone
	e.mu.Unlock()
	e.sayOrphans(delta.Orphans)
	if e.log.V(1).Enabled() {
		e.about.news = newsOf(delta)
	}
	if delta.Cluster != nil {
		signal(e.nodes)
	}
	e.tableMu.Lock()
	defer e.tableMu.Unlock()
	if e.ofFlows = nil; e.flows != nil {
		e.ofFlows = e.table.Affected(delta)
	}
	update := e.table.Update(delta)
	if e.undone {
		return fed, e.table.Replacement()
	}
	return fed, update
}
