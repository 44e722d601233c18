package observer_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/controllers/observer"
)

// told are the flows that were told, each as "text: near miss", and when.
type told struct {
	mu    sync.Mutex
	began time.Time
	flows []string
	after []time.Duration
}

func (t *told) tell(f *flows.Flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.flows = append(t.flows, f.Text+": "+f.NearestMiss)
	t.after = append(t.after, time.Since(t.began))
}

// denial is a default deny.
func denial(text string) *flows.Flow {
	return &flows.Flow{Verdict: flows.Denied, Reason: flows.DefaultDeny, Text: text, Policies: []flows.Policy{{Name: "policy"}}}
}

// telling runs Misses that look for a near miss as long as takes says, until the test ends.
func telling(t *testing.T, takes func(*flows.Flow) time.Duration) (*observer.Misses, *told) {
	out := &told{began: time.Now()}
	m := observer.NewMisses(func(f *flows.Flow) string {
		time.Sleep(takes(f))
		return "miss of " + f.Text
	}, out.tell)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- m.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return m, out
}

func (t *told) want(test *testing.T, want ...string) {
	test.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Equal(t.flows, want) {
		test.Errorf("told are %q instead of %q", t.flows, want)
	}
}

// TestMisses: denials are told in order, with their near miss, and those that have none without a question.
func TestMisses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, out := telling(t, func(*flows.Flow) time.Duration { return time.Millisecond })
		revoked := denial("revoked")
		revoked.Reason = flows.Revoked
		for _, f := range []*flows.Flow{denial("a"), revoked, denial("b")} {
			m.Tell(f)
		}
		time.Sleep(time.Second)
		out.want(t, "a: miss of a", "revoked: ", "b: miss of b")
		if m.Without() != 0 {
			t.Errorf("%d were told without", m.Without())
		}
	})
}

// TestMissesDoNotWait: a denial whose near miss takes long is told without, after a tenth of a second, and so are
// those that come meanwhile.
func TestMissesDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, out := telling(t, func(f *flows.Flow) time.Duration {
			if f.Text == "slow" {
				return 300 * time.Millisecond
			}
			return time.Millisecond
		})
		m.Tell(denial("slow"))
		time.Sleep(50 * time.Millisecond)
		m.Tell(denial("meanwhile"))
		time.Sleep(4 * time.Second) // three of which nothing is looked for
		m.Tell(denial("later"))
		time.Sleep(time.Second)
		out.want(t, "slow: ", "meanwhile: ", "later: miss of later")
		if out.after[0] != 100*time.Millisecond || out.after[1] != 110*time.Millisecond || m.Without() != 2 {
			t.Errorf("told after %v, %d without", out.after, m.Without())
		}
	})
}

// TestMissesTakeAPart: near misses are looked for during an eleventh of the time, however many there are, and
// each denial is told within a tenth of a second.
func TestMissesTakeAPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each = time.Millisecond
		var looked time.Duration
		m, out := telling(t, func(*flows.Flow) time.Duration { looked += each; return each })
		for i := range 5000 {
			m.Tell(denial(fmt.Sprint(i)))
			time.Sleep(2 * time.Millisecond)
		}
		time.Sleep(time.Second)
		out.mu.Lock()
		defer out.mu.Unlock()
		with := 0
		for i, text := range out.flows {
			if late := out.after[i] - time.Duration(i)*2*time.Millisecond; late > 100*time.Millisecond {
				t.Fatalf("%s was told after %s", text, late)
			}
			if !strings.HasPrefix(text, fmt.Sprint(i, ": ")) {
				t.Fatalf("number %d is %s", i, text)
			}
			if strings.Contains(text, "miss") {
				with++
			}
		}
		if with < 800 || looked > 920*each || uint64(5000-with) != m.Without() {
			t.Errorf("%d with their near miss, %d without, looked for %s", with, m.Without(), looked)
		}
	})
}

// TestMissesOfAFlood: if very many wait, all are told at once, in order.
func TestMissesOfAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, out := telling(t, func(*flows.Flow) time.Duration { return time.Hour })
		for i := range 1001 {
			m.Tell(denial(fmt.Sprint(i)))
		}
		out.mu.Lock()
		if len(out.flows) != 1001 || out.after[1000] != 0 || out.flows[0] != "0: " || out.flows[1000] != "1000: " || m.Without() != 1001 {
			t.Errorf("%d were told, %d without", len(out.flows), m.Without())
		}
		out.mu.Unlock()
		time.Sleep(time.Second)
		m.Tell(denial("later"))
		time.Sleep(time.Second)
		out.mu.Lock()
		if len(out.flows) != 1002 {
			t.Errorf("%d were told", len(out.flows))
		}
		out.mu.Unlock()
		time.Sleep(24 * time.Hour) // until it looks for nothing any more
	})
}

// TestMissesAtTheEnd: what waits when the agent ends is told, and what comes after it at once.
func TestMissesAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &told{began: time.Now()}
		m := observer.NewMisses(func(*flows.Flow) string { return "miss" }, out.tell)
		m.Tell(denial("before"))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.Start(ctx); err != nil {
			t.Error(err)
		}
		m.Tell(denial("after"))
		out.want(t, "before: ", "after: ")
	})
}
