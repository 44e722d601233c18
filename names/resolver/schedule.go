package resolver

import (
	"container/heap"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// kinds are what is asked for of each name.
var kinds = [...]dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA}

// entry is a question and when it is due.
type entry struct {
	question
	due time.Time
	// failed is how often in a row it was not answered, and at which resolver last.
	failed int
	at     netip.AddrPort
	// place is where it is in the queue; -1: it is not there.
	place int
}

// schedule is which question is due when. What is being asked is in entries alone until it is put back.
type schedule struct {
	entries map[question]*entry
	queue   queue
	// unasked were not asked yet, in the order in which they came. They are due, but after those of the queue that are, so
	// that no name's address is forgotten because there are many new names.
	unasked []*entry
}

func newSchedule() *schedule { return &schedule{entries: map[question]*entry{}} }

// want has these names asked for from now on, and no others. New ones are due at once.
func (s *schedule) want(names map[string]struct{}, now time.Time) {
	for q, e := range s.entries {
		if _, is := names[q.name]; is {
			continue
		}
		delete(s.entries, q)
		if e.place >= 0 {
			heap.Remove(&s.queue, e.place)
		}
	}
	for name := range names {
		for _, kind := range kinds {
			q := question{name, kind}
			if s.entries[q] == nil {
				e := &entry{question: q, due: now, place: -1}
				s.entries[q] = e
				s.unasked = append(s.unasked, e)
			}
		}
	}
	s.unasked = slices.DeleteFunc(s.unasked, func(e *entry) bool { return !s.wanted(e) })
}

// wanted reports whether an entry is still to be asked for.
func (s *schedule) wanted(e *entry) bool { return s.entries[e.question] == e }

// put puts an entry that is wanted into the queue.
func (s *schedule) put(e *entry, due time.Time) {
	e.due = due
	heap.Push(&s.queue, e)
}

// next is when something is due; zero: nothing waits.
func (s *schedule) next() time.Time {
	switch {
	case len(s.unasked) > 0:
		return s.unasked[0].due
	case len(s.queue) > 0:
		return s.queue[0].due
	}
	return time.Time{}
}

// take takes out what is to be asked now. Something must be due.
func (s *schedule) take(now time.Time) *entry {
	if len(s.queue) > 0 && !s.queue[0].due.After(now) {
		return heap.Pop(&s.queue).(*entry)
	}
	e := s.unasked[0]
	s.unasked = s.unasked[1:]
	return e
}

// hurry has what has failed be due at once, as there are other resolvers to ask.
func (s *schedule) hurry(now time.Time) {
	for _, e := range s.queue {
		if e.failed > 0 {
			e.failed, e.due = 0, now
		}
	}
	heap.Init(&s.queue)
}

// queue is a heap of entries by when they are due. It implements heap.Interface.
type queue []*entry

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

// Push implements heap.Interface, as does Pop.
func (q *queue) Push(x any) {
	e := x.(*entry)
	e.place = len(*q)
	*q = append(*q, e)
}

// Pop takes the last.
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	e.place = -1
	return e
}
