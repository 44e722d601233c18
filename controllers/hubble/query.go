package hubble

import (
	"context"
	"errors"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/observer"
)

// lostInterval is how often, at most, a client is told that it has missed flows.
const lostInterval = time.Second

// late is how long after a flow was seen it is in the store at the latest: who follows until a time gets what
// was seen until then.
const late = time.Second

// query is what a client asks GetFlows for.
type query struct {
	store *observer.Store
	*converter
	// node is where it is asked.
	node string

	whitelist, blacklist filters
	mask                 mask
	// number is how many events are wanted; 0: all. With first, they are the first of all that are kept,
	// else the last. With follow, those that come are wanted, too, until the client goes.
	number        uint64
	first, follow bool
	// since and until are the first and last time that is wanted; the zero Time: any.
	since, until time.Time
	// allowed: connections that pass may match.
	allowed bool
}

// readQuery reads a request, and refuses what it cannot answer.
func readQuery(store *observer.Store, c *converter, node string, r *observerpb.GetFlowsRequest) (q *query, err error) {
	q = &query{store: store, converter: c, node: node, number: r.GetNumber(), first: r.GetFirst(), follow: r.GetFollow(), allowed: mayForward(r.GetWhitelist())}
	if q.first && q.follow {
		return nil, status.Error(codes.InvalidArgument, "first and follow cannot be asked for together: the first flows end, and what follows does not")
	}
	if q.whitelist, err = readFilters("whitelist", r.GetWhitelist()); err != nil {
		return nil, err
	}
	if err := q.whitelist.hold(); err != nil {
		return nil, err
	}
	if q.blacklist, err = readFilters("blacklist", r.GetBlacklist()); err != nil {
		return nil, err
	}
	if q.mask, err = readMask(r.GetFieldMask()); err != nil {
		return nil, err
	}
	if q.since, err = readTime("since", r.GetSince()); err != nil {
		return nil, err
	}
	if q.until, err = readTime("until", r.GetUntil()); err != nil {
		return nil, err
	}
	if q.follow && !q.until.IsZero() && time.Until(q.until) < -late { // nothing can follow any more
		q.follow = false
		if !q.since.IsZero() {
			q.number = 0 // which means little to who follows (see start)
		}
	}
	return q, nil
}

// readTime reads a time; nil is the zero Time.
func readTime(field string, t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if err := t.CheckValid(); err != nil {
		return time.Time{}, status.Errorf(codes.InvalidArgument, "%s: %v", field, err)
	}
	return t.AsTime(), nil
}

// matching are the events of a flow that are asked for.
func (q *query) matching(f *flows.Flow, number uint64) (all []*flowpb.Flow) {
	if !q.since.IsZero() && f.Time.Before(q.since) || !q.until.IsZero() && f.Time.After(q.until) {
		return nil
	}
	for _, event := range q.events(f, number) {
		if (len(q.whitelist) == 0 || q.whitelist.match(event)) && !q.blacklist.match(event) {
			all = append(all, event)
		}
	}
	return all
}

// start is the number of the flow to begin with, and how many of its matching events are to be left out,
// of flows up to last.
func (q *query) start() (from uint64, skip int, last uint64) {
	oldest, last := q.store.Bounds()
	switch {
	case q.follow && q.number == 0 && q.since.IsZero():
		return last + 1, 0, last
	case q.first || q.number == 0 || !q.since.IsZero():
		return oldest, 0, last
	}
	// The last so many that match: backwards, until there are enough.
	var count uint64
	for number := last; number >= oldest; number-- {
		f, at := q.store.Get(number)
		if f == nil || at != number {
			return number + 1, 0, last // overwritten meanwhile
		}
		if count += uint64(len(q.matching(f, number))); count >= q.number {
			return number, int(count - q.number), last
		}
	}
	return oldest, 0, last
}

// run sends what is asked for. It ends when that is all, when ctx is done, or when send fails.
func (q *query) run(ctx context.Context, send func(*observerpb.GetFlowsResponse) error) error {
	from, skip, last := q.start()
	follow, following := q.follow, ctx
	if follow && !q.until.IsZero() {
		var cancel context.CancelFunc
		following, cancel = context.WithDeadline(ctx, q.until.Add(late))
		defer cancel()
	}
	if follow && q.allowed {
		defer q.store.Observe()()
	}
	l := lost{node: q.node, send: send}
	var sent uint64
	for follow || from <= last {
		f, number, err := q.next(following, from, &l)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case follow && following.Err() != nil:
			// What is kept now is all that can be asked for.
			follow, following = false, ctx
			_, last = q.store.Bounds()
			continue
		case err != nil:
			return err
		case f == nil:
			continue // there was time to say what was lost
		}
		l.note(number - from)
		from = number + 1
		events := q.matching(f, number)
		events, skip = events[min(skip, len(events)):], 0
		for _, event := range events {
			if err := l.say(false); err != nil {
				return err
			}
			if err := send(q.response(event)); err != nil {
				return err
			}
			if sent++; !q.follow && sent == q.number {
				return l.say(true)
			}
		}
	}
	return l.say(true)
}

// next is the next flow. It waits for it, but not so long that what was lost is said late: then it returns
// nil.
func (q *query) next(ctx context.Context, from uint64, l *lost) (*flows.Flow, uint64, error) {
	waiting, cancel := ctx, context.CancelFunc(func() {})
	if l.count > 0 {
		waiting, cancel = context.WithTimeout(ctx, lostInterval)
	}
	defer cancel()
	f, number, err := q.store.Next(waiting, from)
	switch {
	case ctx.Err() != nil:
		return nil, 0, ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return nil, 0, l.say(true)
	}
	return f, number, err
}

func (q *query) response(event *flowpb.Flow) *observerpb.GetFlowsResponse {
	r := &observerpb.GetFlowsResponse{NodeName: event.GetNodeName(), Time: event.GetTime(), ResponseTypes: &observerpb.GetFlowsResponse_Flow{Flow: event}}
	q.mask.apply(event.ProtoReflect())
	return r
}

// lost counts the flows that were overwritten before a client had them.
type lost struct {
	node string
	send func(*observerpb.GetFlowsResponse) error

	count             uint64
	first, last, said time.Time // of the count, when that was noticed
}

// note counts so many more.
func (l *lost) note(more uint64) {
	if more == 0 {
		return
	}
	l.last = time.Now()
	if l.count == 0 {
		l.first = l.last
	}
	l.count += more
}

// say tells the client, if there is something to tell, and it was not told a moment ago or must be told
// now.
func (l *lost) say(now bool) error {
	if l.count == 0 || !now && time.Since(l.said) < lostInterval {
		return nil
	}
	event := &flowpb.LostEvent{
		Source: flowpb.LostEventSource_HUBBLE_RING_BUFFER, NumEventsLost: l.count,
		First: timestamppb.New(l.first), Last: timestamppb.New(l.last),
	}
	l.count, l.said = 0, time.Now()
	return l.send(&observerpb.GetFlowsResponse{
		NodeName: l.node, Time: timestamppb.New(l.said), ResponseTypes: &observerpb.GetFlowsResponse_LostEvents{LostEvents: event},
	})
}
