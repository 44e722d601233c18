package report

import (
	"context"
	"math"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"strings"
	"time"

	"github.com/go-logr/logr"

	"github.com/podfence/podfence/policy"
)

const (
	// memoryPeriod is how often the memory in use is looked at.
	memoryPeriod = 10 * time.Second
	// memoryShort is the part of the limit above which somebody should know. From there on the
	// agent collects garbage most of the time, and in the end it is killed.
	memoryShort = 0.75
	// mostNamed is how many namespaces the log names when memory is short.
	mostNamed = 5
)

// memory says when memory is short, and whose policies take most of the node.
type memory struct {
	log logr.Logger
	// live and limit are bytes: what the heap holds, and what Go keeps to.
	live, limit func() int64
	most        func() []policy.Taken
	short       bool
}

// WatchMemory says when memory is short, until ctx is done. It implements manager.Runnable.
func (r *Reporter) WatchMemory(ctx context.Context) error {
	newMemory(r.log, func() []policy.Taken { return r.enforcer.Most(mostNamed) }).follow(ctx)
	return nil
}

func newMemory(log logr.Logger, most func() []policy.Taken) *memory {
	return &memory{log: log, most: most, live: liveHeap, limit: func() int64 { return debug.SetMemoryLimit(-1) }}
}

// liveHeap is how many bytes the last collection of garbage has left.
func liveHeap() int64 {
	sample := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}}
	runtimemetrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

// follow looks until ctx is done.
func (m *memory) follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(memoryPeriod):
			m.look()
		}
	}
}

// look logs when memory has become short, and when it is short no longer.
func (m *memory) look() {
	live, limit := m.live(), m.limit()
	short := limit < math.MaxInt64 && float64(live) > memoryShort*float64(limit)
	if short == m.short {
		return
	}
	if m.short = short; !short {
		m.log.Info("Memory is not short any more", "bytes", live, "limit", limit)
		return
	}
	var names []string
	for _, taken := range m.most() {
		names = append(names, taken.String())
	}
	warn(m.log, "Memory is short: this agent may be killed for it. The last rules stay in force then. Raise its limit, lower --namespace-budget, or have fewer and smaller policies where they take most",
		"bytes", live, "limit", limit, "policiesTakeMost", strings.Join(names, ", "))
}
