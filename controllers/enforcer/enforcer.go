package enforcer

import (
	"context"
	"net/netip"
	"sync"

	"k8s.io/apimachinery/pkg/types"

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

// Options are what an enforcer is told.
type Options struct {
	// Node is the name of the node whose pods it fences.
	Node string
	// Ruleset are the choices that change the policies' table.
	Ruleset ruleset.Options
	// LastPodCIDRs are the node's pod ranges as an earlier agent knew them: they stay
	// closed while the Node is away, or has none.
	LastPodCIDRs []netip.Prefix
	// NamespaceBudget is what the policies of one namespace may take of the node, in
	// elements; 0: policy.DefaultBudget.
	NamespaceBudget int
	// IgnorePodCIDRs: the node's pods do not get their addresses from its ranges.
	IgnorePodCIDRs bool
	// Flows is where to cut established flows that policy no longer allows; it
	// needs Ruleset.RevokedMark. Nil: they are left alone.
	Flows Flows
	// OpenFlows are the established flows, so that those go on that are open by an address of a domain name, of which
	// this agent does not know any more who was told it. Nil: they are cut, if Flows are there.
	OpenFlows OpenFlows
	// Remembered are the timed sets that the kernel has from an agent before, by name: what domain names were resolved
	// to goes on to count until its time is over (see ruleset.Remembered).
	Remembered map[string][]nft.TimedElement
	// Watch notices what others do to the tables. Nil: nothing does.
	Watch Watch
	// Bridge is the bridge that the CNI plugin connects the pods by. Nil: another plugin
	// connects them.
	Bridge *Bridge
	// PodLinks finds the pods' links where another plugin makes them; it needs
	// Ruleset.Links. Nil: podfence connects the pods.
	PodLinks PodLinks
	// Staged is where what staged policies would do is worked out; nil: nowhere.
	Staged *Staged
	// Report gets every outcome. It may be called by several goroutines at once, by each in the
	// order in which things have happened, and must not wait. Nil: nobody hears.
	Report func(Outcome)
}

// Enforcer keeps the kernel's tables equal to what the model says.
//
// Sources Feed it; Start commits: at once when idle, and what comes in during a commit together
// in the next. The first commit, once the sources have fed policy.Synced, replaces the whole
// table; each later one changes what has changed. One that fails leaves the kernel as it was,
// and is followed by a replacement; so is what somebody else does to the table (repairs.go).
// Policies for which the kernel refuses that too are quarantined (refusals.go).
//
// Its methods may be called from any goroutine.
type Enforcer struct {
	inbox *inbox
	loop  *loop
	// policies is the policies' table, for those who ask for its rules, and ruleset the choices that change it.
	policies *sharedTable
	ruleset  ruleset.Options
	flows    *judge // nil: established flows are left alone
	links    *links // nil: podfence connects the pods
	// rehearsal is of the staged policies; nil: there is none.
	rehearsal *rehearsal
	// remembered are Options.Remembered, until the first commit.
	remembered map[string][]nft.TimedElement
}

// New returns an enforcer for a node.
func New(kernel Kernel, o Options) *Enforcer {
	if o.Report == nil {
		o.Report = func(Outcome) {}
	}
	shared := &sharedTable{}
	rehearsal := newRehearsal(o, shared)
	e := &Enforcer{inbox: newInbox(newModel(o), rehearsal), links: newLinks(o), policies: shared, ruleset: o.Ruleset, rehearsal: rehearsal, remembered: o.Remembered}
	if o.Flows != nil {
		e.flows = newJudge(o.Flows, shared, o.Report)
	}
	e.loop = newLoop(kernel, o, e.inbox, shared, e.flows, e.links)
	return e
}

// Feed takes changes into the model. They are committed together. It returns how many times changes have
// been fed by then, these included: a Committed whose Fed is at least that has them.
func (e *Enforcer) Feed(changes ...policy.Change) (fed uint64) { return e.inbox.feed(changes) }

// Start commits until ctx is done. It takes nothing away when it stops: the
// last rules stay in force. It implements manager.Runnable.
func (e *Enforcer) Start(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-e.inbox.untilSynced():
	}
	e.remember()
	var beside sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer beside.Wait()
	defer cancel()
	if e.links != nil {
		beside.Go(func() { e.links.watch(ctx) })
	}
	if e.flows != nil {
		beside.Go(func() { e.flows.judgeAll(ctx) })
		beside.Go(func() { e.flows.judgeAffected(ctx) })
	}
	if e.rehearsal != nil {
		beside.Go(func() { e.rehearsal.run(ctx) })
	}
	return e.loop.run(ctx)
}

// remember feeds what an agent before has learned, once it is known whose the addresses are to which it was told.
func (e *Enforcer) remember() {
	holders := func(addr netip.Addr) []policy.Key {
		return ask(e.inbox, func(m *policy.Model) []policy.Key { return m.SubjectsAt(addr) })
	}
	if all := ruleset.Remembered(e.remembered, holders); len(all) > 0 {
		e.inbox.feed([]policy.Change{policy.Resolved(all)})
	}
	e.remembered = nil
}

// Sync waits until everything fed before the call is in the kernel.
func (e *Enforcer) Sync(ctx context.Context) error {
	return e.inbox.awaitCommit(ctx, everything())
}

// SyncOf waits until the kernel has everything fed before the call that packets of a namespace's
// pods meet, and until the addresses are peers nowhere that they are not peers any more. It does
// not wait for what takes long of the policies of other namespaces.
func (e *Enforcer) SyncOf(ctx context.Context, namespace string, addrs []netip.Addr) error {
	return e.inbox.awaitCommit(ctx, ofNamespace(namespace, addrs))
}

// SyncFirst waits until everything fed before the call is in the kernel, except for what is handed
// out bit by bit.
func (e *Enforcer) SyncFirst(ctx context.Context) error { return e.inbox.awaitCommit(ctx, nothing()) }

// AwaitPod waits until the pod that an attachment was made for is known, so that its policies
// hold for the attachment's addresses. It returns the pod's UID, or ErrDetached if the attachment
// goes before.
func (e *Enforcer) AwaitPod(ctx context.Context, a policy.Attachment) (types.UID, error) {
	return e.inbox.awaitPod(ctx, a)
}

// Ready fails while what was fed is not in the kernel: before the first commit, and after one that
// failed, until one succeeds. It answers the plugin's STATUS; /readyz tells of more conditions.
func (e *Enforcer) Ready() error { return e.inbox.ready() }

// CommitFailure says why what was fed is not in the kernel, or does not stay there: the last commit
// has failed, or somebody keeps undoing what is committed.
func (e *Enforcer) CommitFailure() error { return e.inbox.commitFailure() }
