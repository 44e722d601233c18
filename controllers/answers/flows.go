package answers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/observer"
)

// How flows are sent.
const (
	// streamsAtOnce is how many may read flows at once.
	streamsAtOnce = 16
	// flushAt is from how many octets on flows are sent, although there are more to be sent with them.
	flushAt = 32 << 10
	// sendTimeout is how long the network may take for what is sent at once. It ends the streams of who reads
	// more slowly than that.
	sendTimeout = 10 * time.Second
	// keepAlive is after how long without a flow an empty line is sent: proxies close connections that are
	// silent, and a reader whose agent has gone without a word would wait for ever.
	keepAlive = 15 * time.Second
)

// serveFlows answers with the flows that are asked for, and, for who follows, with all further ones until the
// reader has gone.
func (s *Server) serveFlows(w http.ResponseWriter, r *http.Request) {
	if !allowed(w, r, http.MethodGet) {
		return
	}
	query, err := flows.ParseQuery(r.URL.Query(), time.Now())
	switch {
	case err != nil:
		fail(w, http.StatusBadRequest, "BadRequest", err.Error())
		return
	case s.options.Flows == nil:
		fail(w, http.StatusServiceUnavailable, "Unavailable", "this agent keeps no flows")
		return
	}
	select {
	case s.streaming <- struct{}{}:
	default:
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusTooManyRequests, "TooManyRequests", fmt.Sprintf("%d read flows already: ask again when one of them has gone", streamsAtOnce))
		return
	}
	defer func() { <-s.streaming }()
	if query.Follow && query.WantsAllowed() {
		defer s.options.Flows.Observe()()
	}
	w.Header().Set("Content-Type", flows.MediaType)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	out := newStream(w)
	_ = out.all(r.Context(), s.options.Flows, &query) // who has gone, or reads too slowly, is not told
}

// stream sends flows to one reader.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	buffer  bytes.Buffer
	// next is the number of the flow that is read next.
	next uint64
}

func newStream(w http.ResponseWriter) *stream {
	return &stream{w: w, control: http.NewResponseController(w)}
}

// within gives the answer so long to begin, in place of the server's writeTimeout.
func (s *stream) within(d time.Duration) { _ = s.control.SetWriteDeadline(time.Now().Add(d)) }

// empty adds a line without anything.
func (s *stream) empty() { s.buffer.WriteByte('\n') }

// all sends what a query asks for. An error says why no more can be sent.
func (s *stream) all(ctx context.Context, store *observer.Store, q *flows.Query) error {
	last := s.begin(store, q)
	if err := s.flush(); err != nil { // who asks knows now that there is an answer, and that nothing goes past it
		return err
	}
	if err := s.kept(store, q, last); err != nil || !q.Follow {
		return err
	}
	for {
		wait, cancel := context.WithTimeout(ctx, keepAlive)
		f, number, err := store.Next(wait, s.next)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil: // there was none
			s.empty()
		default:
			if err := s.from(store, &q.Filter, f, number); err != nil {
				return err
			}
		}
		if err := s.flush(); err != nil {
			return err
		}
	}
}

// begin sets the number of the flow that is read first, and returns that of the last that the store has now.
func (s *stream) begin(store *observer.Store, q *flows.Query) (last uint64) {
	oldest, last := store.Bounds()
	switch {
	case q.Last == 0:
		s.next = last + 1
	case q.Last > 0:
		s.next = nthLast(store, q, oldest, last)
	default:
		s.next = oldest
	}
	return last
}

// kept sends what is asked for of what the store had when the answer began.
func (s *stream) kept(store *observer.Store, q *flows.Query, last uint64) error {
	for s.next <= last {
		f, number := store.Get(s.next)
		if f == nil {
			break
		}
		s.missed(number)
		if q.WantsKept(f) {
			if err := s.send(f); err != nil {
				return err
			}
		}
	}
	return s.flush()
}

// nthLast is the number from which on so many of the flows up to the last are wanted as are asked for, or the
// oldest's.
func nthLast(store *observer.Store, q *flows.Query, oldest, last uint64) uint64 {
	found := 0
	for number := last; number >= oldest && number > 0; number-- {
		f, is := store.Get(number)
		if is != number || f == nil { // it is overwritten, and all before it are
			return number + 1
		}
		if q.WantsKept(f) {
			if found++; found == q.Last {
				return number
			}
		}
	}
	return oldest
}

// from sends a flow that is wanted, and those that are behind it already.
func (s *stream) from(store *observer.Store, filter *flows.Filter, f *flows.Flow, number uint64) error {
	for f != nil {
		s.missed(number)
		if filter.Match(f) {
			if err := s.send(f); err != nil {
				return err
			}
		}
		f, number = store.Get(s.next)
	}
	return nil
}

// missed takes note of the number of the flow that was read, and says how many are missing before it.
func (s *stream) missed(number uint64) {
	if number > s.next {
		s.encode(flows.Missed{Missed: number - s.next})
	}
	s.next = number + 1
}

func (s *stream) send(f *flows.Flow) error {
	s.encode(f)
	if s.buffer.Len() < flushAt {
		return nil
	}
	return s.flush()
}

func (s *stream) encode(line any) {
	encoder := json.NewEncoder(&s.buffer)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(line) // flows are plain values, and a buffer takes all
}

// flush sends what is in the buffer.
func (s *stream) flush() error {
	if err := s.control.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	if _, err := s.buffer.WriteTo(s.w); err != nil {
		return err
	}
	return s.control.Flush()
}
