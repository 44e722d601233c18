package controllers

import (
	"context"

	"github.com/podfence/podfence/policy"
)

// await waits until something holds of the model. It asks now, and after each change
// that is fed, under the enforcer's lock: holds must be quick, and change nothing.
func (e *Enforcer) await(ctx context.Context, holds func(*policy.Model) bool) error {
	for {
		e.mu.Lock()
		if holds(e.model) {
			e.mu.Unlock()
			return nil
		}
		if e.changed == nil {
			e.changed = make(chan struct{})
		}
		changed := e.changed
		e.mu.Unlock()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}

// tellWaiting wakes all who await something. The caller holds e.mu.
func (e *Enforcer) tellWaiting() {
	if e.changed != nil {
		close(e.changed)
		e.changed = nil
	}
}

// hasLoaded reports whether the model has what there was at the start.
func (e *Enforcer) hasLoaded() bool {
	select {
	case <-e.begin:
		return true
	default:
		return false
	}
}
