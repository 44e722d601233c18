package enforcer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/policy"
)

// inbox takes in changes, and the loop takes out of it what they change in what is to be enforced.
// It has the model, and its mutex makes it safe to use the model from many goroutines.
type inbox struct {
	// wake holds one token while there may be something to commit.
	wake chan struct{}
	// synced is closed when all that there was at the start has been fed.
	synced chan struct{}

	mu    sync.Mutex
	model *policy.Model
	// fed counts how many times changes have been fed, and each batch that leaves more for the
	// next. planned is what fed was when the last batch was taken. committed is what fed was when
	// the batch was taken that is in the kernel.
	fed, planned, committed uint64
	// pending says that after the last batch parts of large policies still wait to be handed
	// out, and partial that the last batch had such a part.
	pending, partial bool
	// failure is why the last commit has failed; nil if it has not. fought says who keeps undoing
	// what is committed; it counts until foughtUntil.
	failure, fought error
	foughtUntil     time.Time
	waiters         waiters
	// rehearsal is fed the same changes; nil: there is none.
	rehearsal *rehearsal
}

// newModel is the model of an empty cluster.
func newModel(o Options) *policy.Model {
	model := policy.NewModel(o.Node)
	if o.IgnorePodCIDRs {
		model.IgnorePodCIDRs()
	}
	if o.NamespaceBudget != 0 {
		model.SetBudget(o.NamespaceBudget)
	}
	model.RememberPodCIDRs(o.LastPodCIDRs)
	return model
}

// newInbox returns the inbox of a model. What is fed to it is fed to a rehearsal as well, unless that is nil.
func newInbox(model *policy.Model, rehearsal *rehearsal) *inbox {
	return &inbox{
		wake: make(chan struct{}, 1), synced: make(chan struct{}), model: model, waiters: newWaiters(), rehearsal: rehearsal,
	}
}

// woken has a token while there may be something to commit; wakeUp leaves one.
func (i *inbox) woken() <-chan struct{} { return i.wake }
func (i *inbox) wakeUp()                { signal(i.wake) }

// untilSynced is closed when all that there was at the start has been fed.
func (i *inbox) untilSynced() <-chan struct{} { return i.synced }

// feed takes changes into the model. It returns what fed is then.
func (i *inbox) feed(changes []policy.Change) (fed uint64) {
	i.mu.Lock()
	before := i.model.HasSynced()
	i.model.Apply(changes...)
	i.fed++
	fed = i.fed
	if !before && i.model.HasSynced() {
		close(i.synced)
	}
	i.waiters.fed(i.model)
	i.rehearsal.feed(i.model, changes)
	i.mu.Unlock()
	signal(i.wake)
	return fed
}

// hasSynced reports whether all that there was at the start has been fed.
func (i *inbox) hasSynced() bool {
	select {
	case <-i.synced:
		return true
	default:
		return false
	}
}

// batch is what the loop takes out at once.
type batch struct {
	// Fed is how many times changes had been fed by then.
	Fed uint64
	// Intent is all that is to be enforced. If it is nil, Delta is what has changed since the
	// last batch.
	Intent *policy.Intent
	Delta  policy.Delta
	// Budget are the policies that a budget has quarantined or released.
	Budget OverBudget
	// Pending says that more waits, which is for the next batches.
	Pending bool
}

// takeAll takes out all that is to be enforced.
func (i *inbox) takeAll() batch {
	i.mu.Lock()
	defer i.mu.Unlock()
	intent := i.model.Intent()
	i.pending, i.partial = false, false
	i.noteBatch()
	return batch{Fed: i.fed, Intent: &intent, Budget: i.budget()}
}

// takeChanges takes out what has changed or, if that is much, a part of it. Changes that came in
// while such a part was committed are taken before the next part.
func (i *inbox) takeChanges() batch {
	i.mu.Lock()
	defer i.mu.Unlock()
	newerFirst := i.partial && i.fed > i.planned+1 // planned+1 counts what the last batch has left
	take := i.model.Take
	if newerFirst {
		take = i.model.TakeReady
	}
	b := batch{Delta: take(), Fed: i.fed}
	i.noteBatch()
	b.Budget, b.Pending = i.budget(), i.model.Pending()
	if b.Pending {
		i.fed++ // whoever waits for what is left has to wait for the next batches
	}
	i.pending, i.partial = b.Pending, b.Pending && !newerFirst
	return b
}

// noteBatch notes that all that was fed so far was taken out. The caller holds mu.
func (i *inbox) noteBatch() {
	i.planned = i.fed
	i.waiters.taken(i.planned, i.model)
}

// budget divides the policies that a budget has quarantined or released since the last call.
// The caller holds mu.
func (i *inbox) budget() (o OverBudget) {
	for _, key := range i.model.News() {
		if len(i.model.Problems(key)) > 0 {
			o.Quarantined = append(o.Quarantined, key)
		} else {
			o.Released = append(o.Released, key)
		}
	}
	return o
}

// settle notes that all tables are up to date with what was fed so many times. It tells nobody who
// waits for that: tellSettled does, once it is reported.
func (i *inbox) settle(fed uint64) (quarantined, overBudget int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.failure, i.committed = nil, fed
	return i.model.Quarantined(), i.model.OverBudget()
}

// tellSettled tells everybody who waits for what was in the last batch.
func (i *inbox) tellSettled() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.waiters.settled()
}

// fail notes why a commit has failed.
func (i *inbox) fail(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.failure = err
}

// fight notes who keeps undoing what is committed. The fight is over if nobody has done so again by
// the time until.
func (i *inbox) fight(err error, until time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.failure, i.fought, i.foughtUntil = err, err, until
}

// reconsider has the policies tried again for which a budget had no room.
func (i *inbox) reconsider() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.model.Reconsider()
}

// release ends the quarantine of policies, and returns all that is then to be enforced.
func (i *inbox) release(keys []policy.Key) policy.Intent {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, key := range keys {
		i.model.Release(key)
	}
	return i.model.Intent()
}

// quarantine quarantines policies of an intent, each for its reason, unless they have changed
// since.
func (i *inbox) quarantine(in policy.Intent, reasons map[policy.Key]string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for key, reason := range reasons {
		i.model.Quarantine(in.Policies[key], reason)
	}
}

// refusedAddrs are the addresses of this node and its ranges that other nodes' pods show.
func (i *inbox) refusedAddrs() []netip.Addr {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.model.Refused()
}

// ErrNotStarted is why an agent is not ready at first. The log says what it waits for: an API
// server that does not answer, a folder that is not valid, or the kernel.
var ErrNotStarted = errors.New("nothing committed yet: this agent waits for its source to be read whole")

// ready fails while what was fed is not in the kernel: before the first commit, and after one that
// has failed, until one succeeds.
func (i *inbox) ready() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.failure != nil:
		return fmt.Errorf("the last commit failed: %w", i.failure)
	case i.committed == 0:
		return ErrNotStarted
	}
	return nil
}

// commitFailure says why what was fed is not in the kernel, or does not stay there: the last commit
// has failed, or a fight over the tables is not over.
func (i *inbox) commitFailure() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.failure == nil && time.Now().Before(i.foughtUntil) {
		return i.fought
	}
	return i.failure
}

// awaitCommit waits until what was fed before the call is in the kernel. Of what is handed out bit
// by bit, it waits for what is in the scope.
func (i *inbox) awaitCommit(ctx context.Context, s scope) error {
	i.mu.Lock()
	if i.committed >= i.fed && i.committed > 0 && !s.waits(i.model) {
		i.mu.Unlock()
		return nil
	}
	w := i.waiters.forCommit(i.fed, i.planned, s, i.model)
	i.mu.Unlock()
	select {
	case <-w.Done:
		return nil
	case <-ctx.Done():
		i.mu.Lock()
		defer i.mu.Unlock()
		i.waiters.forgetCommit(w)
		if i.failure != nil {
			return fmt.Errorf("the last commit failed: %w", i.failure)
		}
		return fmt.Errorf("no commit came in time: %w", context.Cause(ctx))
	}
}

// ErrDetached is why waiting for the pod of an attachment has ended before the pod was known.
var ErrDetached = errors.New("the attachment is gone")

// awaitPod waits until the pod of an attachment is known, and returns its UID.
func (i *inbox) awaitPod(ctx context.Context, a policy.Attachment) (types.UID, error) {
	i.mu.Lock()
	if uid, known := i.model.Attached(a); known {
		i.mu.Unlock()
		return uid, nil
	}
	if !i.model.Has(a.Key()) {
		i.mu.Unlock()
		return "", ErrDetached
	}
	w := i.waiters.forPod(a)
	i.mu.Unlock()
	select {
	case uid, known := <-w.Known:
		if !known {
			return "", ErrDetached
		}
		return uid, nil
	case <-ctx.Done():
		i.mu.Lock()
		defer i.mu.Unlock()
		i.waiters.forgetPod(w)
		return "", context.Cause(ctx)
	}
}

// ask asks the model a question, which must not change it.
func ask[T any](i *inbox, question func(*policy.Model) T) T {
	i.mu.Lock()
	defer i.mu.Unlock()
	return question(i.model)
}

// signal leaves one token in a channel.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
