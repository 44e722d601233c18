package soak

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/podfence/podfence/test/agent"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/quantiles"
)

// sample is what the agent takes of the machine at one time, when all that was
// written is enforced and garbage has just been collected.
type sample struct {
	at                time.Duration
	bursts            int
	pods, policies    int
	commits, elements float64
	heap, resident    float64 // bytes
	goroutines, files float64
	tally
}

const header = "    time  bursts  pods  policies  commits  elements  heap MB   rss MB  goroutines  files  packets  wrong"

func (s sample) String() string {
	return fmt.Sprintf("%8s  %6d  %4d  %8d  %7.0f  %8.0f  %7.2f  %7.2f  %10.0f  %5.0f  %7d  %5d",
		s.at.Round(100*time.Millisecond), s.bursts, s.pods, s.policies, s.commits, s.elements,
		s.heap/1e6, s.resident/1e6, s.goroutines, s.files, s.sent, s.wrong)
}

// measure fills in the agent's part of a sample.
func (s *sample) measure(t *testing.T, a *agent.Agent) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// Asking for this profile makes Go collect garbage first.
	_, err := a.Profile(ctx, "/debug/pprof/heap?gc=1")
	check.NoError(t, err)
	values, err := a.Metrics(ctx)
	check.NoError(t, err)
	s.commits, s.elements = values["podfence_commits_total"], values["podfence_table_elements"]
	s.heap, s.resident = values["go_memstats_heap_inuse_bytes"], values["process_resident_memory_bytes"]
	s.goroutines, s.files = values["go_goroutines"], values["process_open_fds"]
}

// flat are the figures that must not grow, and by how much they may: by what is
// under way just then, and what client libraries keep, up to a limit, such as
// the buckets of Prometheus' native histograms.
var flat = []struct {
	what  string
	of    func(sample) float64
	slack func(before float64) float64
}{
	{"goroutines", func(s sample) float64 { return s.goroutines }, func(float64) float64 { return 5 }},
	{"open files", func(s sample) float64 { return s.files }, func(float64) float64 { return 5 }},
	{"bytes of heap in use", func(s sample) float64 { return s.heap }, func(before float64) float64 { return before/10 + 1e6 }},
}

// judgeable is the least time that says something about growth: before, Go's
// and the kernel's own caches still fill.
const judgeable = 2 * time.Minute

// judgeGrowth prints how the last third of the samples differs from the second,
// and fails the test for growth; the first third is for warming up.
func judgeGrowth(t *testing.T, samples []sample) {
	t.Helper()
	for _, g := range growths(samples) {
		t.Log(g)
		if g.tooMuch() && *soak >= judgeable {
			t.Errorf("%s: too much", g)
		}
	}
	if *soak < judgeable {
		t.Logf("growth is not judged: that takes -soak %s", judgeable)
	}
}

// growth is how a figure has changed, by its medians.
type growth struct {
	what                 string
	before, after, slack float64
}

func (g growth) tooMuch() bool { return g.after-g.before > g.slack }

func (g growth) String() string {
	return fmt.Sprintf("%s: median %.0f in the second third, %.0f in the last; allowed are %.0f more", g.what, g.before, g.after, g.slack)
}

// growths compares the thirds of the samples; there must be a few.
func growths(samples []sample) (all []growth) {
	third := len(samples) / 3
	if third == 0 {
		return nil
	}
	for _, figure := range flat {
		g := growth{what: figure.what, before: quantiles.Median(samples[third:2*third], figure.of), after: quantiles.Median(samples[len(samples)-third:], figure.of)}
		g.slack = figure.slack(g.before)
		all = append(all, g)
	}
	return all
}

func TestGrowths(t *testing.T) {
	const n = 30
	for _, test := range []struct {
		name string
		at   func(i int) sample
		want []string
	}{
		{"flat", func(int) sample { return sample{goroutines: 100, files: 17, heap: 7e6} }, nil},
		{"warming up", func(i int) sample { return sample{goroutines: float64(min(10*i, 100)), files: 17, heap: 7e6} }, nil},
		{"noise", func(i int) sample {
			return sample{goroutines: 100 + float64(i%3), files: 17, heap: 7e6 + 1e5*float64(i%7)}
		}, nil},
		{"leaking goroutines", func(i int) sample { return sample{goroutines: 100 + float64(i), files: 17, heap: 7e6} }, []string{"goroutines"}},
		{"leaking files", func(i int) sample { return sample{goroutines: 100, files: 17 + float64(i), heap: 7e6} }, []string{"open files"}},
		{"leaking memory", func(i int) sample { return sample{goroutines: 100, files: 17, heap: 7e6 * (1 + 2*float64(i)/n)} }, []string{"bytes of heap in use"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var samples []sample
			for i := range n {
				samples = append(samples, test.at(i))
			}
			var got []string
			for _, g := range growths(samples) {
				if g.tooMuch() {
					got = append(got, g.what)
				}
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("too much growth of %q, want of %q", got, test.want)
			}
		})
	}
}
