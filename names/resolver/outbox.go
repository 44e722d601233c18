package resolver

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/podfence/podfence/policy"
)

// outbox hands resolutions over from a goroutine of its own, so that whoever puts them in never waits. What gathers while
// the sink is busy is handed over together: each address of a name once, until the latest time.
type outbox struct {
	sink func([]policy.Resolution)
	wake chan struct{}

	mu      sync.Mutex
	waiting map[policy.Resolution]time.Time // until when, by the resolution without its time
}

func newOutbox(sink func([]policy.Resolution)) *outbox {
	return &outbox{sink: sink, wake: make(chan struct{}, 1), waiting: map[policy.Resolution]time.Time{}}
}

// put takes resolutions in.
func (o *outbox) put(all []policy.Resolution) {
	o.mu.Lock()
	for _, r := range all {
		until := r.Expires
		if r.Expires = (time.Time{}); until.After(o.waiting[r]) {
			o.waiting[r] = until
		}
	}
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// run hands over until ctx is done.
func (o *outbox) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.wake:
		}
		if all := o.take(time.Now()); len(all) > 0 {
			o.sink(all)
		}
	}
}

// take takes out what waits and has not expired, in order.
func (o *outbox) take(now time.Time) (all []policy.Resolution) {
	o.mu.Lock()
	waiting := o.waiting
	o.waiting = map[policy.Resolution]time.Time{}
	o.mu.Unlock()
	for r, until := range waiting {
		if r.Expires = until; until.After(now) {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, policy.CompareResolutions)
	return all
}
