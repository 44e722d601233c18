package enforcer

import (
	"cmp"
	"context"
	"fmt"
	"time"

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
	// RepairsAtOnce is how many times in a row the tables are repaired at once; more is a
	// fight. A firewall manager that restarts undoes them once or twice.
	RepairsAtOnce = 3
	// quietTime is after how long without tampering a fight is over.
	quietTime = time.Minute
)

// Repairs decides how soon to repair what somebody else has changed: at once, but in a fight less
// and less often. Two programs that each undo the other as fast as they can would take all of the
// node, and neither would win. The zero value has seen nothing yet.
type Repairs struct {
	inARow int       // how many times there was tampering without a quiet time between
	last   time.Time // when there was tampering last
	pause  wait.Backoff
}

// Next returns how long to wait before repairing what was noticed now.
func (r *Repairs) Next(now time.Time) time.Duration {
	if now.Sub(r.last) >= quietTime {
		r.inARow, r.pause = 0, newBackoff()
	}
	r.last = now
	if r.inARow++; r.inARow <= RepairsAtOnce {
		return 0
	}
	return r.pause.Step()
}

// repairs are those of the tables.
type repairs struct {
	Repairs
	// noticed is when what is to be repaired was noticed first; zero: there is nothing to repair.
	noticed time.Time
}

// begin notes that there is something to repair, and returns how long to wait before repairing it.
func (r *repairs) begin(now time.Time) time.Duration {
	if r.noticed.IsZero() {
		r.noticed = now
	}
	return r.Next(now)
}

// done notes that the tables are as they should be.
func (r *repairs) done(report func(Outcome)) {
	if !r.noticed.IsZero() {
		report(Repaired{After: time.Since(r.noticed)})
		r.noticed = time.Time{}
	}
}

// tampered is the watch's channel. Without a watch it is one that never has a token.
func (l *loop) tampered() <-chan struct{} {
	if l.watch == nil {
		return nil
	}
	return l.watch.Tampered()
}

// notice looks whether somebody else has changed the tables. If so, the next commit replaces them,
// and in a fight notice first waits. What others change during that wait is repaired by the same
// commit. What the sources change waits as well, because it would be undone with the rest.
func (l *loop) notice(ctx context.Context) error {
	noticed, err := l.takeTampering()
	if err != nil || noticed == nil || l.policies.get() == nil {
		return err // before the first commit, the tables are not this agent's to repair
	}
	now := time.Now()
	pause := l.repairs.begin(now)
	if pause > 0 {
		l.inbox.fight(fmt.Errorf("undone again and again, last by %s", cmp.Or(noticed.Process, "a process that is not known")), now.Add(quietTime))
	}
	l.report(Tampered{Tampering: *noticed, InARow: l.repairs.inARow, Pause: pause})
	if pause == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(pause):
	}
	_, err = l.takeTampering()
	return err
}

// takeTampering notes if somebody else has changed the kernel's tables, which are no longer trusted
// then, and returns the last such change; nil: there was none.
func (l *loop) takeTampering() (*nft.Tampering, error) {
	if l.watch == nil {
		return nil, nil
	}
	noticed, err := l.watch.Take()
	if err != nil {
		// To go on would be to trust blindly. A new agent replaces everything.
		return nil, fmt.Errorf("what others do to the table is not noticed any more: %w", err)
	}
	if len(noticed) == 0 {
		return nil, nil
	}
	l.trust = min(l.trust, undone)
	l.policies.doubt()
	return &noticed[len(noticed)-1], nil
}
