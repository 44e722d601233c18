package observer

import (
	"context"
	"time"

	"github.com/go-logr/logr"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

// repeats sums up the packets of denied flows that came after the one that was told. The kernel counts them until
// it tells of the flow again, or forgets it.
type repeats struct {
	count func(nft.Logged) (uint64, error)
	tell  func(*flows.Flow)
	log   logr.Logger
	// queue has what was told and is not summed up yet, the oldest first.
	queue chan toldDenial
}

// toldDenial is a packet that was told, and the flow that says so.
type toldDenial struct {
	packet nft.Logged
	flow   flows.Flow
}

const (
	// sumUpAfter is after how long a flow is summed up: before the kernel forgets it.
	sumUpAfter = (ruleset.ToldFor - 1) * time.Second
	// maxToldDenials is how many flows wait to be summed up at most. With more than that in nine seconds, some
	// are not, which bounds what it takes of a processor and of memory.
	maxToldDenials = 4096
)

func newRepeats(count func(nft.Logged) (uint64, error), tell func(*flows.Flow), log logr.Logger) *repeats {
	return &repeats{count: count, tell: tell, log: log, queue: make(chan toldDenial, maxToldDenials)}
}

// add has a flow summed up later. It does not wait.
func (r *repeats) add(l nft.Logged, f flows.Flow) {
	select {
	case r.queue <- toldDenial{l, f}:
	default:
	}
}

// sumUp sums up flows until ctx is done.
func (r *repeats) sumUp(ctx context.Context) {
	failed := false
	for {
		var told toldDenial
		select {
		case <-ctx.Done():
			return
		case told = <-r.queue:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(told.flow.Time.Add(sumUpAfter))):
		}
		n, err := r.count(told.packet)
		switch {
		case err != nil && !failed:
			r.log.Error(err, "Cannot read how often a flow was denied again; repeats are not told until it can be read")
			failed = true
		case err == nil:
			failed = false
		}
		if n > 0 {
			told.flow.Time, told.flow.Repeats = time.Now(), n
			r.tell(&told.flow)
		}
	}
}
