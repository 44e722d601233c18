package controllers

import (
	"context"
	"fmt"
	"net/netip"
)

// waiter waits for a change.
type waiter struct {
	// need is how many changes must be in the kernel.
	need uint64
	// staged reports whether something of them is still handed out bit by bit.
	staged func() bool
	// taken: once the plan is in the kernel that was taken last, all of them are.
	taken bool
}

// noteTaken notes whose changes were all taken out of the model, before others come in. The
// caller holds e.mu.
func (e *Enforcer) noteTaken(fed uint64) {
	e.planned = fed
	for _, w := range e.waiting {
		e.note(w)
	}
}

// note notes whether a waiter's changes are all in the last plan. The model must be as that
// has left it, or have been fed since. The caller holds e.mu.
func (e *Enforcer) note(w *waiter) { w.taken = w.need <= e.planned && !w.staged() }

// Sync waits until everything fed before the call is in the kernel.
func (e *Enforcer) Sync(ctx context.Context) error { return e.awaitCommit(ctx, e.model.Staging) }

// syncOf waits until everything fed before the call is in the kernel that packets of a
// namespace's pods meet, and the addresses are peers only of whom they still are: what takes
// long of another's policies keeps nobody waiting.
func (e *Enforcer) syncOf(ctx context.Context, namespace string, addrs []netip.Addr) error {
	return e.awaitCommit(ctx, func() bool { return e.model.StagingOf(namespace, addrs) })
}

// syncFirst waits until everything fed before the call is in the kernel, but for what is handed
// out bit by bit.
func (e *Enforcer) syncFirst(ctx context.Context) error {
	return e.awaitCommit(ctx, func() bool { return false })
}

func (e *Enforcer) awaitCommit(ctx context.Context, staged func() bool) error {
	e.mu.Lock()
	if e.committed >= e.fed && e.committed > 0 && !staged() {
		e.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	w := &waiter{need: e.fed, staged: staged}
	e.note(w) // the last plan may be on its way into the kernel
	e.waiting[done] = w
	e.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.waiting, done)
		if e.failure != nil {
			return fmt.Errorf("the last commit failed: %w", e.failure)
		}
		return fmt.Errorf("no commit came in time: %w", context.Cause(ctx))
	}
}
