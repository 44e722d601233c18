package observer

import (
	"context"
	"sync"

	"github.com/podfence/podfence/api/flows"
)

// Store keeps the last flows in a ring of a fixed size. Each flow has a number, the first of all has 1, so
// that a reader knows where it is, and how many it has missed because they were overwritten. Its methods
// may be called from any goroutine. Adding a flow never waits for a reader.
type Store struct {
	mu   sync.Mutex
	ring []*flows.Flow // that with number n is at n modulo its length
	// last is the number of the last flow. added is closed, and replaced, when one is added.
	last  uint64
	added chan struct{}
	// observers is how many want to be told of allowed connections as well. observing is told when the
	// first comes and the last goes; nil: nobody is.
	observers int
	observing func(bool)
}

// NewStore returns a store of so many flows, at least one. observing is called when the first observer of
// allowed connections comes, and when the last has gone, one call after the other; nil: nobody is told.
func NewStore(size int, observing func(bool)) *Store {
	return &Store{ring: make([]*flows.Flow, max(size, 1)), added: make(chan struct{}), observing: observing}
}

// Add adds a flow, which nobody may change any more.
func (s *Store) Add(f *flows.Flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.ring[s.last%uint64(len(s.ring))] = f
	close(s.added)
	s.added = make(chan struct{})
}

// Bounds are the numbers of the oldest flow that is kept and of the last one. Without any flow, the
// oldest's is the greater.
func (s *Store) Bounds() (oldest, last uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.oldest(), s.last
}

// Size is how many flows are kept at most.
func (s *Store) Size() int { return len(s.ring) }

func (s *Store) oldest() uint64 {
	if size := uint64(len(s.ring)); s.last > size {
		return s.last - size + 1
	}
	return 1
}

// Get returns the first kept flow whose number is at least from, and its number; nil if there is none
// yet.
func (s *Store) Get(from uint64) (f *flows.Flow, number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.get(from)
}

func (s *Store) get(from uint64) (*flows.Flow, uint64) {
	number := max(from, s.oldest())
	if number > s.last {
		return nil, number
	}
	return s.ring[number%uint64(len(s.ring))], number
}

// Next is Get, but waits for a flow until ctx is done, whose error it then returns.
func (s *Store) Next(ctx context.Context, from uint64) (f *flows.Flow, number uint64, err error) {
	for {
		s.mu.Lock()
		f, number = s.get(from)
		added := s.added
		s.mu.Unlock()
		if f != nil {
			return f, number, nil
		}
		select {
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		case <-added:
		}
	}
}

// Observe has allowed connections told of, too, until done is called.
func (s *Store) Observe() (done func()) {
	s.observe(1)
	return sync.OnceFunc(func() { s.observe(-1) })
}

func (s *Store) observe(by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.observers > 0
	s.observers += by
	if now := s.observers > 0; now != before && s.observing != nil {
		s.observing(now)
	}
}
