package controllers

import (
	"cmp"
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/podfence/podfence/ruleset/nft"
)

// Watch notices what others do to podfence's tables.
type Watch interface {
	// Tampered gets a token when there is something to take.
	Tampered() <-chan struct{}
	// Take hands out what others have done since the last call. With an error
	// nothing is noticed any more.
	Take() ([]nft.Tampering, error)
}

const (
	// atOnce is how many times in a row the tables are repaired at once; more is a
	// fight. A firewall manager that restarts undoes them once or twice.
	atOnce = 3
	// quiet is after how long without tampering a fight is over.
	quiet = time.Minute
)

// repairs decides how soon to repair what somebody else has changed: at once, but
// in a fight less and less often. Two programs that each undo the other as fast as
// they can would take all of the node, and neither would win.
type repairs struct {
	row   int       // of repairs, without a quiet time between
	last  time.Time // tampering
	pause wait.Backoff
}

// next is how long to wait before the repair of what was noticed now.
func (r *repairs) next(now time.Time) time.Duration {
	if now.Sub(r.last) >= quiet {
		r.row, r.pause = 0, newBackoff()
	}
	r.last = now
	if r.row++; r.row <= atOnce {
		return 0
	}
	return r.pause.Step()
}

// tampered is the watch's channel; without a watch it says nothing.
func (e *Enforcer) tampered() <-chan struct{} {
	if e.watch == nil {
		return nil
	}
	return e.watch.Tampered()
}

// distrust looks whether somebody else has changed the tables. Then nothing is
// known of them, so that the next commit replaces them; in a fight it waits before.
// What others change meanwhile is repaired along with it, and what the sources
// change waits too: it would be undone with the rest.
func (e *Enforcer) distrust(ctx context.Context) error {
	noticed, err := e.take()
	if err != nil || noticed == nil || e.table == nil {
		return err // before the first commit, the table is no business of this agent's
	}
	now := time.Now()
	pause := e.repairs.next(now)
	if !e.repairing {
		e.repairing, e.noticed = true, now
	}
	about := []any{"changes", noticed.What(), "process", noticed.Process, "pid", noticed.PID}
	switch {
	case pause == 0:
		warn(e.log, "Somebody else has changed the table; replacing it", about...)
	default:
		warn(e.log, "Somebody else keeps changing the table; replacing it less often",
			append(about, "inARow", e.repairs.row, "after", pause.String())...)
		e.mu.Lock()
		e.failure = fmt.Errorf("undone again and again, last by %s", cmp.Or(noticed.Process, "a process that is not known"))
		e.fought, e.foughtUntil = e.failure, now.Add(quiet)
		e.health.Set(CommitFailed, e.failure)
		e.mu.Unlock()
	}
	if e.repairs.row == 1 || e.repairs.row == atOnce+1 {
		e.reportTampering(noticed, pause > 0)
	}
	if pause == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(pause):
	}
	_, err = e.take()
	return err
}

// commitFailure is why what was fed is not in the kernel for good: the last commit has
// failed, or a fight over the tables is not over. mu must be held.
func (e *Enforcer) commitFailure() error {
	if e.failure == nil && time.Now().Before(e.foughtUntil) {
		return e.fought
	}
	return e.failure
}

// take forgets what the kernel holds if somebody else has changed it, and returns
// the last change.
func (e *Enforcer) take() (*nft.Tampering, error) {
	if e.watch == nil {
		return nil, nil
	}
	noticed, err := e.watch.Take()
	if err != nil {
		// To go on would be to trust blindly. A new agent replaces everything.
		return nil, fmt.Errorf("what others do to the table is not noticed any more: %w", err)
	}
	if len(noticed) == 0 {
		return nil, nil
	}
	e.undone = e.undone || e.known
	e.known = false
	return &noticed[len(noticed)-1], nil
}

// repaired notes that the tables are as they should be.
func (e *Enforcer) repaired() {
	if !e.repairing {
		return
	}
	e.repairing = false
	e.metrics.repairs.Inc()
	e.log.Info("Repaired the table", "after", time.Since(e.noticed).String())
}

// ReasonTamperedWith is the reason of the Warning Event on a Node whose table
// somebody else has changed.
const ReasonTamperedWith = "TamperedWith"

// reportTampering says it to who looks at the Node, whose UID in Events is its name, as
// kubelet has it. The same program's doing is one Event, until the API server forgets
// that.
func (e *Enforcer) reportTampering(noticed *nft.Tampering, fight bool) {
	message := fmt.Sprintf("podfence's table was changed, and replaced: %s; by %s", noticed.What(), noticed.Who())
	if fight {
		message = fmt.Sprintf("podfence's table is changed over and over, and replaced less and less often; last %s; by %s", noticed.What(), noticed.Who())
	}
	about := corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: e.node, UID: types.UID(e.node)}
	e.events.create(warning(about, e.node, ReasonTamperedWith, fmt.Sprintf("%s %s %v", e.node, noticed.Process, fight), message))
}
