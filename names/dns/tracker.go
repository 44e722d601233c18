package dns

import (
	"net/netip"
	"sync"
	"time"
)

// Tracker knows what pods have asked, for a short time, and so what a reply says to whom. It takes some 64 MiB at most,
// whatever pods send, and 4 MiB for a pod. It may be used from any goroutine.
//
// A reply counts only if its query was handed in before: whoever reads both must read queries first.
type Tracker struct {
	mu sync.Mutex
	bounds
}

// NewTracker returns a Tracker that knows of no question.
func NewTracker() *Tracker { return &Tracker{bounds: newBounds()} }

// Query takes in what a pod sends to a resolver. It returns why messages were ignored, for each one reason, and TooMany for
// each flow that had to go to make room.
func (t *Tracker) Query(p Packet, now time.Time) (ignored []Reason) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep(now)
	c := t.find(p.Flow, now)
	note := func(message []byte) {
		if why := c.query(message, now); why != 0 {
			ignored = append(ignored, why)
		}
	}
	if p.TCP {
		c = began(c, p)
		if c == nil {
			return notFollowed(p)
		}
		if !c.queries.add(p.first(), p.Payload, note) {
			ignored = append(ignored, NotFollowed)
		}
		c.ended = c.ended || p.ends()
	} else {
		if c == nil {
			c = &conversation{flow: p.Flow}
		}
		note(p.Payload)
	}
	for range t.put(c, now) {
		ignored = append(ignored, TooMany)
	}
	return ignored
}

// Reply takes in what a resolver sends to a pod. It returns what the pod learns by this very packet: of TCP, by the messages
// that are whole with it. And it returns why messages, or addresses of them, were ignored.
func (t *Tracker) Reply(p Packet, now time.Time) (answers []Answer, ignored []Reason) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.find(p.Flow, now)
	note := func(message []byte) {
		a, ok, why := c.reply(message, now)
		if ok {
			answers = append(answers, a)
		}
		ignored = append(ignored, why...)
	}
	switch {
	case !p.TCP:
		note(p.Payload)
	case c == nil:
		return nil, notFollowed(p)
	default:
		if p.Flags&tcpSYN != 0 {
			c.replies.start(p.Sequence)
		}
		if !c.replies.add(p.first(), p.Payload, note) {
			ignored = append(ignored, NotFollowed)
		}
		c.ended = c.ended || p.ends()
	}
	if c != nil {
		for range t.put(c, now) {
			ignored = append(ignored, TooMany)
		}
	}
	return answers, ignored
}

// Waits reports whether something was asked on a flow, whatever it was, that may be answered. Whoever reads replies can wait
// for a query that is still to be read: over TCP, a reply cannot be handed in twice.
func (t *Tracker) Waits(flow Flow, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.find(flow, now)
	return c != nil && now.Sub(c.queried) < questionTime
}

// Forget forgets what was asked from an address, as another pod may get it.
func (t *Tracker) Forget(pod netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p := t.pods[pod]; p != nil && len(p.soonest) > 0; {
		t.remove(p.soonest[0])
	}
}

// began returns the conversation of a connection, which is a new one if it is another connection.
func began(c *conversation, p Packet) *conversation {
	if p.Flags&tcpSYN == 0 || c != nil && c.queries.startedBy(p.Sequence) {
		return c
	}
	c = &conversation{flow: p.Flow}
	c.queries.start(p.Sequence)
	return c
}

// notFollowed is why a packet of an unknown connection was ignored. One without data is no loss.
func notFollowed(p Packet) []Reason {
	if len(p.Payload) == 0 {
		return nil
	}
	return []Reason{NotFollowed}
}

// first is the sequence number of the payload. A SYN has one of its own (RFC 9293 section 3.4), and may have data with it
// (RFC 7413).
func (p Packet) first() uint32 {
	if p.Flags&tcpSYN != 0 {
		return p.Sequence + 1
	}
	return p.Sequence
}

// ends reports whether its sender sends no more.
func (p Packet) ends() bool { return p.Flags&(tcpFIN|tcpRST) != 0 }
