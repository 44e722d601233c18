package observer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/observer"
)

func flow(n int) *flows.Flow { return &flows.Flow{Text: fmt.Sprint(n)} }

// TestStoreKeepsTheLast: what is added comes out in order, with its number; what was overwritten is missed,
// and the numbers say how much.
func TestStoreKeepsTheLast(t *testing.T) {
	s := observer.NewStore(3, nil)
	if oldest, last := s.Bounds(); oldest <= last {
		t.Errorf("an empty store has the flows %d to %d", oldest, last)
	}
	if f, _ := s.Get(0); f != nil {
		t.Errorf("an empty store has %v", f)
	}
	for n := 1; n <= 5; n++ {
		s.Add(flow(n))
	}
	if oldest, last := s.Bounds(); oldest != 3 || last != 5 {
		t.Errorf("it has the flows %d to %d, want 3 to 5", oldest, last)
	}
	var have []string
	for from := uint64(1); ; {
		f, number := s.Get(from)
		if f == nil {
			break
		}
		have = append(have, fmt.Sprint(number, "=", f.Text))
		from = number + 1
	}
	if want := []string{"3=3", "4=4", "5=5"}; !slices.Equal(have, want) {
		t.Errorf("it has %v, want %v", have, want)
	}
}

// TestStoreWakesReaders: whoever waits is woken by the next flow, and by the end of its context.
func TestStoreWakesReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := observer.NewStore(3, nil)
		ctx, cancel := context.WithCancel(t.Context())
		var numbers []uint64
		var ended error
		go func() {
			for from := uint64(0); ; {
				_, number, err := s.Next(ctx, from)
				if err != nil {
					ended = err
					return
				}
				numbers = append(numbers, number)
				from = number + 1
			}
		}()
		synctest.Wait()
		s.Add(flow(1))
		synctest.Wait()
		s.Add(flow(2))
		synctest.Wait()
		cancel()
		synctest.Wait()
		if !slices.Equal(numbers, []uint64{1, 2}) || !errors.Is(ended, context.Canceled) {
			t.Errorf("it was woken for %v, and ended with %v", numbers, ended)
		}
	})
}

// TestStoreSaysWhoObserves: the first observer and the end of the last are told, once each.
func TestStoreSaysWhoObserves(t *testing.T) {
	var told []bool
	s := observer.NewStore(1, func(on bool) { told = append(told, on) })
	first, second := s.Observe(), s.Observe()
	first()
	first()
	if want := []bool{true}; !slices.Equal(told, want) {
		t.Errorf("while one observes it has told %v, want %v", told, want)
	}
	second()
	s.Observe()
	if want := []bool{true, false, true}; !slices.Equal(told, want) {
		t.Errorf("it has told %v, want %v", told, want)
	}
}
