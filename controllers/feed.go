package controllers

import (
	"errors"
	"fmt"

	"github.com/podfence/podfence/policy"
)

// Feed takes changes into the model. They are committed together.
func (e *Enforcer) Feed(changes ...policy.Change) {
	_ = e.feed(func() ([]policy.Change, error) { return changes, nil })
}

// feed takes the changes into the model that read returns, and none if that fails. Reading and
// taking in is one step, under e.mu: what is read, of a cache, is as new as what any earlier
// change was read of, so that the model never goes back in time.
func (e *Enforcer) feed(read func() ([]policy.Change, error)) error {
	e.mu.Lock()
	changes, err := read()
	if err == nil {
		e.model.Apply(changes...)
		e.fed++
		e.tellWaiting()
	}
	e.mu.Unlock()
	if err == nil {
		signal(e.wake)
	}
	return err
}

// Attachments are what the CNI plugin has made, as the model knows it.
func (e *Enforcer) Attachments() []policy.Attachment {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.model.Attachments()
}

// signal leaves one token in a channel.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Begin lets the first commit happen: the model holds all there is.
func (e *Enforcer) Begin() { e.beginOnce.Do(func() { close(e.begin) }) }

// errNotStarted is why an agent is not ready at first. What keeps it is in the log: an
// API server that does not answer, a folder that is not valid, or the kernel.
var errNotStarted = errors.New("nothing committed yet: this agent waits for its source to be read whole")

// Ready fails while what was fed is not in the kernel: before the first commit, and after
// one that failed until the next has not. By that the plugin's STATUS is answered; /readyz
// tells of more (health.go).
func (e *Enforcer) Ready() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.failure != nil:
		return fmt.Errorf("the last commit failed: %w", e.failure)
	case e.committed == 0:
		return errNotStarted
	}
	return nil
}
