package quantiles_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/podfence/podfence/test/quantiles"
)

// TestInterval: of many samples of a known distribution, the interval has the quantile of
// that in it as often as it says.
func TestInterval(t *testing.T) {
	const rounds = 5000
	random := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		samples  int
		quantile float64
		// least is how many per cent of the intervals must have it: of few samples steps are wide.
		least int
	}{{8, 0.5, 92}, {24, 0.5, 93}, {200, 0.5, 93}, {200, 0.9, 93}, {1000, 0.99, 93}} {
		within := 0
		for range rounds {
			values := make([]float64, c.samples)
			for i := range values {
				values[i] = random.Float64() // whose quantiles are themselves
			}
			slices.Sort(values)
			if lo, hi := quantiles.Interval(values, c.quantile); lo <= c.quantile && c.quantile <= hi {
				within++
			}
		}
		if percent := 100 * within / rounds; percent < c.least {
			t.Errorf("%d samples: the quantile %g is in %d %% of the intervals, want %d", c.samples, c.quantile, percent, c.least)
		}
	}
}

func TestIntervalOfFew(t *testing.T) {
	if lo, hi := quantiles.Interval([]int{7}, 0.5); lo != 7 || hi != 7 {
		t.Errorf("of one value: %d to %d", lo, hi)
	}
	if lo, hi := quantiles.Interval([]int{1, 2, 3}, 0.5); lo != 1 || hi != 3 {
		t.Errorf("of three values: %d to %d", lo, hi)
	}
}

func TestReport(t *testing.T) {
	result := testing.Benchmark(func(b *testing.B) {
		var times []time.Duration
		for i := range 101 {
			times = append(times, time.Duration(100-i)*time.Millisecond)
		}
		quantiles.Report(b, "open", time.Millisecond, times, 50, 100)
		quantiles.ReportMedian(b, "MB", []float64{3, 1, 2})
	})
	for unit, want := range map[string]float64{
		"open-p50-ms": 50, "open-p50-ms-lo": 40, "open-p50-ms-hi": 60, "open-max-ms": 100, "MB": 2, "MB-lo": 1, "MB-hi": 3,
	} {
		if have, reported := result.Extra[unit]; !reported || have != want {
			t.Errorf("%s: have %g, %t, want %g", unit, have, reported, want)
		}
	}
	if len(result.Extra) != 8 { // and ns/op
		t.Errorf("reported: %v", result.Extra)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		all  []time.Duration
		want time.Duration
	}{{[]time.Duration{3}, 3}, {[]time.Duration{9, 1}, 5}, {[]time.Duration{9, 1, 2}, 2}, {[]time.Duration{8, 1, 2, 4}, 3}} {
		if have := quantiles.Median(c.all, func(d time.Duration) time.Duration { return d }); have != c.want {
			t.Errorf("of %d it is %d, want %d", c.all, have, c.want)
		}
	}
}
