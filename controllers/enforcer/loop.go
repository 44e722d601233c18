package enforcer

import (
	"context"
	"errors"
	"net/netip"
	"runtime/debug"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// loop commits what the inbox has. Its fields are for the goroutine of run alone.
type loop struct {
	kernel  Kernel
	options ruleset.Options
	inbox   *inbox
	watch   Watch  // nil: what others do is not noticed
	flows   *judge // nil: established flows are left alone
	links   *links // nil: podfence connects the pods
	open    OpenFlows
	report  func(Outcome)

	// policies is the table that judges packets, and trust what is known of it in the kernel.
	policies *sharedTable
	trust    trust
	// beside are the tables that are committed after it, in this order.
	beside []*table

	repairs repairs
	// untried are the policies that are quarantined although it is not known yet whether the
	// kernel refuses them: the last search ran out of time.
	untried []policy.Key
	// replaced says that the last commit has replaced the policies' table.
	replaced bool
	// pending says that after the last batch more waits to be committed.
	pending bool
}

// newLoop returns a loop. Another table beside the policies' table needs one more entry in beside.
func newLoop(kernel Kernel, o Options, in *inbox, policies *sharedTable, flows *judge, links *links) *loop {
	l := &loop{
		kernel: kernel, options: o.Ruleset, inbox: in, watch: o.Watch, flows: flows, links: links, open: o.OpenFlows, report: o.Report,
		policies: policies,
	}
	if o.Bridge != nil {
		l.beside = append(l.beside, newTable("the bridge's table", o.Bridge.Kernel, newGuard(o.Bridge, o.Ruleset), nil))
	}
	if links != nil {
		l.beside = append(l.beside,
			newTable("the pods' links", kernel, &linksPart{links, policies}, &l.trust),
			newTable("the bridges' table", kernel, newFrames(links, o.Ruleset), nil))
	}
	return l
}

// budgetRetry is how often policies for which a budget had no room are tried again, as there may
// be room by now.
const budgetRetry = 5 * time.Minute

// run commits until ctx is done.
func (l *loop) run(ctx context.Context) error {
	l.report(Started{})
	l.inbox.wakeUp() // an empty cluster is a commit too
	backoff := newBackoff()
	reconsider := time.NewTicker(budgetRetry)
	defer reconsider.Stop()
	var resume <-chan time.Time // when to go on with a search
	var more <-chan time.Time   // when to commit more of what waits
	for {
		if len(l.untried) > 0 && resume == nil {
			resume = time.After(searchPause)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.inbox.woken():
		case <-more:
		case <-l.links.maybeMoved():
			l.lookForLinks()
		case <-l.tampered():
		case <-reconsider.C:
			l.inbox.reconsider()
		case <-resume:
			resume = nil
			if err := l.resumeSearch(); err != nil {
				l.report(Troubled{What: "Cannot find out which policies the kernel refuses; trying again", Err: err})
			}
		}
		if err := l.notice(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		began := time.Now()
		err := l.commit()
		if more = nil; err == nil {
			backoff = newBackoff()
			if l.pending {
				// For twice as long as this commit has taken, the commits and the processor are
				// left to others: what waits belongs to somebody who has written very much.
				more = time.After(2 * time.Since(began))
			}
			continue
		}
		// Changes that are fed meanwhile do not shorten the wait: they would be refused along
		// with the rest. Tampering does, as it may be why the commit has failed.
		delay := backoff.Step()
		l.report(Failed{Err: err, RetryAfter: delay})
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		case <-l.tampered():
		}
		l.inbox.wakeUp()
	}
}

// newBackoff waits 50 ms after a first failed commit, and up to 5 s after further ones. A pod that
// starts has to wait as long.
func newBackoff() wait.Backoff {
	return wait.Backoff{Duration: 50 * time.Millisecond, Factor: 2, Steps: 8, Cap: 5 * time.Second}
}

// commit brings all tables up to date.
func (l *loop) commit() error {
	if l.trust != known {
		// The other tables' state may be no better known, and they are small.
		for _, t := range l.beside {
			t.distrust(l.trust)
		}
	}
	fed, err := l.commitPolicies()
	for _, t := range l.beside {
		if err == nil {
			err = t.commit()
		}
	}
	if err != nil {
		l.inbox.fail(err)
		return err
	}
	l.policies.settle()
	l.repairs.done(l.report)
	quarantined, overBudget := l.inbox.settle(fed)
	l.report(Settled{Size: l.policies.get().Size(), Quarantined: quarantined, OverBudget: overBudget})
	l.inbox.tellSettled()
	if l.replaced {
		// To read and to build all of it took far more than it takes to hold. Nothing of the
		// intent is held any more.
		go debug.FreeOSMemory()
	}
	return nil
}

// commitPolicies brings the policies' table up to date in one transaction. If the kernel refuses
// that, it tries the table built anew; if it refuses this too, the same without the rules of the
// policies that are to blame. It returns how many times changes had been fed that are in the
// kernel then.
func (l *loop) commitPolicies() (fed uint64, err error) {
	var first error // the refusal of a plan for a table that was not built anew
	for {
		began := time.Now()
		anew := l.trust == unknown
		b, plan, affected, err := l.plan()
		if err != nil {
			return 0, errors.Join(err, first)
		}
		if !plan.Empty() {
			err = l.kernel.Apply(plan)
			l.report(Transacted{Operations: len(plan.Ops), Took: time.Since(began), Err: err})
		}
		if err == nil {
			l.committed(b, plan, affected, time.Since(began))
			if first != nil {
				l.report(Mismatched{Err: first})
			}
			return b.Fed, nil
		}
		l.trust = unknown // but keep the table: flows stay judged by it
		if !refused(err) {
			return 0, err
		}
		if !anew {
			first = err
			continue
		}
		first = nil // it was a policy's fault, or nobody's that is known
		if excluded, why := l.exclude(); !excluded {
			return 0, errors.Join(err, why)
		}
	}
}

// committed notes that the kernel holds the policies' table, and tells all that depends on this
// table.
func (l *loop) committed(b batch, plan nft.Plan, affected map[netip.Addr]bool, took time.Duration) {
	l.trust, l.replaced = known, plan.Replace
	c := Committed{Fed: b.Fed, Intent: b.Intent, Delta: b.Delta, Operations: len(plan.Ops), Replaced: plan.Replace, Took: took}
	for _, t := range l.beside {
		t.follow(c)
	}
	if l.flows != nil && !plan.Empty() {
		l.flows.committed(plan.Replace, affected)
	}
	if plan.Replace {
		c.Elements, c.RefusedAddrs = l.policies.get().Size().Elements, l.inbox.refusedAddrs()
	}
	l.report(c)
}

// plan takes a batch out of the inbox, and works out what has to change in the kernel for it. If it
// is not known what the kernel holds, as after a failure, the table is built anew and replaces the
// kernel's. If somebody else has changed the kernel's table, the table as it should be replaces it,
// without being built anew, which would take as long again. plan also returns the addresses whose
// flows the change may concern, nil for all (see ruleset.Table.Affected).
func (l *loop) plan() (b batch, plan nft.Plan, affected map[netip.Addr]bool, err error) {
	if l.trust == unknown {
		b = l.inbox.takeAll()
		l.took(b)
		table := ruleset.Build(*b.Intent, l.options)
		if err := l.links.into(table, *b.Intent); err != nil {
			return b, plan, nil, err
		}
		l.inherit(table)
		l.policies.put(table)
		// The members of peers and named ports are most of it, and are in the table now: to hold
		// them twice while the kernel takes the table would be the agent's peak of memory.
		b.Intent.Peers, b.Intent.NamedPorts = nil, nil
		return b, table.Replacement(), nil, nil
	}
	b = l.inbox.takeChanges()
	l.took(b)
	l.policies.change(func(t *ruleset.Table) {
		if l.flows != nil {
			affected = t.Affected(b.Delta)
		}
		if plan = t.Update(b.Delta); l.trust == undone {
			plan = t.Replacement()
		}
	})
	return b, plan, affected, nil
}

// inherit has connections go on that are open by addresses of domain names, in a table that was built anew. As the first
// table it has what connection tracking knows.
func (l *loop) inherit(table *ruleset.Table) {
	switch {
	case l.policies.get() != nil:
		l.policies.bequeath(table)
	case l.open != nil && table.HasDomains():
		always := func(is bool) func(nft.HookPoint, policy.Packet) bool {
			return func(nft.HookPoint, policy.Packet) bool { return is }
		}
		_, err := l.open.WouldCut(context.Background(), l.options.RevokedMark, always(true), always(false), func(f nft.OpenFlow) {
			table.Opened(f.JudgedBy.Src, f.JudgedBy.Dst)
		})
		if err != nil {
			l.report(Troubled{What: "Cannot tell which connections are open to addresses of domain names; some may be cut", Err: err})
		}
	}
}

// took notes a batch, and reports what has come of it before it is committed.
func (l *loop) took(b batch) {
	l.pending = b.Pending
	if len(b.Budget.Quarantined)+len(b.Budget.Released) > 0 {
		l.report(b.Budget)
	}
}

// lookForLinks finds out again where the pods' links are, for the commit that follows.
func (l *loop) lookForLinks() {
	if err := l.links.findAll(); err != nil {
		l.report(Troubled{What: "Cannot look after the pods' links; what was found before stays closed", Err: err, RetryAfter: linksRetry})
	}
}
