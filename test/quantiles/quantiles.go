// Package quantiles tells how figures, as the times that a benchmark has taken, are
// distributed, and how far chance may have moved them.
package quantiles

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"
)

// Median is that of a figure of all, of which there must be one; of an even number it is
// halfway between the two in the middle.
func Median[T any, N ~int64 | ~float64](all []T, of func(T) N) N {
	values := make([]N, 0, len(all))
	for _, one := range all {
		values = append(values, of(one))
	}
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// Report reports percentiles of times in place of their mean:
// the 50th as p50-ms, or p50-us in microseconds, and the 100th as max-ms. The name,
// if there is one, comes first: add-p50-ms. With each but the 100th come the ends of
// its Interval, as p50-ms-lo and p50-ms-hi.
func Report(b *testing.B, name string, unit time.Duration, times []time.Duration, percents ...int) {
	suffix := map[time.Duration]string{time.Microsecond: "us", time.Millisecond: "ms"}[unit]
	if name != "" {
		name += "-"
	}
	times = slices.Sorted(slices.Values(times)) // whoever has them may pair them with others
	for _, percent := range percents {
		which := fmt.Sprint("p", percent)
		if percent == 100 {
			which = "max"
		}
		at := times[min(len(times)*percent/100, len(times)-1)]
		b.ReportMetric(float64(at)/float64(unit), name+which+"-"+suffix)
		if percent < 100 {
			lo, hi := Interval(times, float64(percent)/100)
			reportEnds(b, name+which+"-"+suffix, float64(lo)/float64(unit), float64(hi)/float64(unit))
		}
	}
	b.ReportMetric(0, "ns/op")
}

// ReportMedian reports the median of values, which it sorts, and the ends of its Interval, as
// unit-lo and unit-hi.
func ReportMedian(b *testing.B, unit string, values []float64) {
	slices.Sort(values)
	b.ReportMetric(Median(values, func(v float64) float64 { return v }), unit)
	lo, hi := Interval(values, 0.5)
	reportEnds(b, unit, lo, hi)
}

func reportEnds(b *testing.B, unit string, lo, hi float64) {
	b.ReportMetric(lo, unit+"-lo")
	b.ReportMetric(hi, unit+"-hi")
}

// Interval is where the quantile of what sorted values are samples of lies, with about 95 %
// confidence: between two of the values, by how many of them are below it (a binomial
// distribution, and the normal one in its place; it asks nothing of the values' own). For a
// quantile near the end of few values that is the last of them, and says little.
func Interval[T cmp.Ordered](sorted []T, quantile float64) (lo, hi T) {
	n := float64(len(sorted))
	below, spread := n*quantile, 1.96*math.Sqrt(n*quantile*(1-quantile))
	at := func(rank float64) T { return sorted[max(0, min(len(sorted)-1, int(rank)))] }
	return at(math.Floor(below - spread)), at(math.Ceil(below+spread) - 1)
}
