package commands

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/cli-runtime/pkg/printers"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/kubectl-podfence/agents"
)

const (
	// window is how long a flow is held back, so that those that others tell of later, and have been before, come
	// before it. tick is how often is looked for flows that were held long enough.
	window = 300 * time.Millisecond
	tick   = 100 * time.Millisecond
	// silence is for how long an agent may say nothing. It sends an empty line every 15 s.
	silence = time.Minute
	// again is after how long a stream that has ended is taken up again.
	again = 2 * time.Second
	// heldMost is from how many flows on those that follow wait, while they are held back for agents that do not
	// answer yet.
	heldMost = 100_000
)

// observation reads flows of agents, and writes them in the order of time.
type observation struct {
	asking *asking
	frame  *frame
	query  flows.Query
	out    flowSink

	events chan observed
	// opening has a token for each agent that is being asked and has not begun to answer; without --follow, for
	// each that is being asked.
	opening chan struct{}
	held    []heldFlow
	// waiting are the agents that have neither begun to answer nor failed to, and failing are those that do not
	// answer now, with the reason.
	waiting map[*askedAgent]bool
	failing map[*askedAgent]string
	// broken are the agents of which a stream has ended that was followed: what they saw until it was taken up again
	// is missing.
	broken map[*askedAgent]bool
	// missed is how many flows agents have forgotten before they were read.
	missed uint64
}

// flowSink gets flows in the order of time.
type flowSink interface{ write(*flows.Flow) error }

// observed is what is read of an agent: a flow, how many were missed, that it has begun to answer, or that it
// has ended, by err or because it has sent all.
type observed struct {
	of     *askedAgent
	flow   *flows.Flow
	missed uint64
	opened bool
	ended  bool
	err    error
}

// heldFlow is a flow that was read then.
type heldFlow struct {
	*flows.Flow
	at time.Time
}

func newObservation(f *frame, a *asking, q flows.Query, out flowSink) *observation {
	return &observation{
		asking: a, frame: f, query: q, out: out,
		events: make(chan observed, 256), opening: make(chan struct{}, askedAtOnce),
		waiting: map[*askedAgent]bool{}, failing: map[*askedAgent]string{}, broken: map[*askedAgent]bool{},
	}
}

// run reads until all have ended or, if they are followed, until ctx is done.
func (o *observation) run(ctx context.Context, asked []*askedAgent) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, of := range asked {
		o.waiting[of] = true
		go o.read(ctx, of)
	}
	if err := o.merge(ctx, len(asked)); err != nil {
		return err
	}
	if len(o.failing) > 0 {
		return errNo
	}
	return nil
}

// merge takes what is read, until all agents have ended.
func (o *observation) merge(ctx context.Context, running int) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for running > 0 {
		events := o.events
		if o.query.Follow && len(o.held) >= heldMost {
			events = nil // until some were written
			o.waiting = nil
		}
		select {
		case <-ctx.Done():
			return o.write(len(o.held))
		case e := <-events:
			o.take(e)
			if e.ended && !o.query.Follow {
				running--
			}
		case now := <-ticker.C:
			if !o.query.Follow || len(o.waiting) > 0 {
				continue
			}
			if err := o.write(o.due(now)); err != nil {
				return err
			}
		}
	}
	o.sort()
	if more := len(o.held) - o.query.Last; more > 0 {
		o.held = o.held[more:]
	}
	return o.write(len(o.held))
}

// take takes note of what was read.
func (o *observation) take(e observed) {
	switch {
	case e.flow != nil:
		o.held = append(o.held, heldFlow{e.flow, time.Now()})
		if most := 2*o.query.Last + 1000; !o.query.Follow && len(o.held) > most { // the last are wanted alone
			o.sort()
			o.held = slices.Clone(o.held[len(o.held)-o.query.Last:])
		}
	case e.missed > 0:
		o.missed += e.missed
		o.say(e.of, fmt.Sprintf("%d flows are missing: its agent has forgotten them before they were read (--observe-flows has it keep more)", e.missed))
	case e.opened:
		delete(o.waiting, e.of)
		if o.failing[e.of] != "" {
			delete(o.failing, e.of)
			o.say(e.of, "its agent answers again")
		}
	case e.ended:
		delete(o.waiting, e.of)
		o.broken[e.of] = true
		if e.err != nil && o.failing[e.of] != e.err.Error() {
			o.failing[e.of] = e.err.Error()
			o.say(e.of, e.err.Error())
		}
	}
}

// say says something of a node on standard error.
func (o *observation) say(of *askedAgent, text string) {
	fmt.Fprintf(o.frame.ErrOut, "%s: %s\n", nameOf(of), printers.EscapeTerminal(text))
}

// sort orders what is held by time.
func (o *observation) sort() {
	slices.SortStableFunc(o.held, func(a, b heldFlow) int { return a.Time.Compare(b.Time) })
}

// due orders what is held, and is how many of them have to be written: those that were held long enough, and all
// before them.
func (o *observation) due(now time.Time) (count int) {
	o.sort()
	for i, f := range o.held {
		if now.Sub(f.at) >= window {
			count = i + 1
		}
	}
	return count
}

// write writes the first of what is held.
func (o *observation) write(count int) error {
	for _, f := range o.held[:count] {
		if err := o.out.write(f.Flow); err != nil {
			return err
		}
	}
	o.held = slices.Delete(o.held, 0, count)
	return nil
}

// read reads the flows of a node's agent and, if it is followed, again and again until ctx is done.
func (o *observation) read(ctx context.Context, of *askedAgent) {
	r := &reading{observation: o, of: of, query: o.query}
	for {
		err := r.once(ctx)
		if ctx.Err() != nil { // it was broken off, which is no failure
			return
		}
		if err == nil && o.query.Follow {
			err = errors.New("its agent has ended the stream, as when it restarts; asking again")
		}
		o.tell(ctx, observed{of: of, ended: true, err: err})
		if !o.query.Follow {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(again):
			r.find(ctx)
		}
	}
}

// tell hands on what was read.
func (o *observation) tell(ctx context.Context, e observed) {
	select {
	case o.events <- e:
	case <-ctx.Done():
	}
}

// reading is the reading of one node's flows.
type reading struct {
	*observation
	of *askedAgent
	// query is what is asked for the next time. last is the last flow that was read, as JSON, and lastAt its time.
	query  flows.Query
	last   []byte
	lastAt time.Time
}

// once reads a stream until it ends.
func (r *reading) once(ctx context.Context) error {
	select {
	case r.opening <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	holds := true
	release := func() {
		if holds {
			<-r.opening
		}
		holds = false
	}
	defer release()
	return r.asking.stream(ctx, r.of, flows.Path+"?"+r.query.Values().Encode(), agents.Stream{
		Silence: silence,
		Opened: func(at time.Time) {
			if r.query.Follow {
				release()
			}
			if r.lastAt.IsZero() {
				r.lastAt = at
			}
			r.tell(ctx, observed{of: r.of, opened: true})
		},
		Line: func(line []byte) error { return r.line(ctx, line) },
	})
}

// line takes a line. A stream that is taken up again begins with what was read last.
func (r *reading) line(ctx context.Context, line []byte) error {
	f, missed, err := flows.ParseLine(line)
	if err != nil {
		return err
	}
	switch {
	case missed > 0:
		r.tell(ctx, observed{of: r.of, missed: missed})
	case f != nil && !bytes.Equal(line, r.last):
		if f.Time.After(r.lastAt) || r.last == nil {
			r.lastAt = f.Time
		}
		r.last = bytes.Clone(line)
		r.tell(ctx, observed{of: r.of, flow: f})
	}
	return nil
}

// find finds the node's agent again, which may be another pod by now, and has it asked for what was not read
// yet.
func (r *reading) find(ctx context.Context) {
	r.query.Last, r.query.Since = flows.All, r.lastAt
	if r.lastAt.IsZero() { // it has never answered
		r.query.Last, r.query.Since = r.observation.query.Last, r.observation.query.Since
	}
	r.asking.findAgain(ctx, r.frame, r.of)
}

// missing says, once observing has ended, what agents have not told.
func (o *observation) missing(asked []*askedAgent) (notes []string) {
	for _, of := range asked {
		switch {
		case o.failing[of] != "":
			notes = append(notes, fmt.Sprintf("what node %s has seen: %s", nameOf(of), printers.EscapeTerminal(o.failing[of])))
		case o.broken[of]:
			notes = append(notes, fmt.Sprintf("what node %s has seen for a while: its agent did not answer all the time", nameOf(of)))
		case o.waiting[of]:
			notes = append(notes, fmt.Sprintf("what node %s has seen: its agent has not answered yet", nameOf(of)))
		}
	}
	if o.missed > 0 {
		notes = append(notes, fmt.Sprintf("%d flows, which agents have forgotten before they were read (--observe-flows has them keep more)", o.missed))
	}
	return notes
}
