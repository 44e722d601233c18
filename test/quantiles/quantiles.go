// Package quantiles tells how figures, as the times that a benchmark has taken, are
// distributed.
package quantiles

import (
	"fmt"
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

// Report reports percentiles of times, which it sorts, in place of their mean:
// the 50th as p50-ms, or p50-us in microseconds, and the 100th as max-ms. The name,
// if there is one, comes first: add-p50-ms.
func Report(b *testing.B, name string, unit time.Duration, times []time.Duration, percents ...int) {
	suffix := map[time.Duration]string{time.Microsecond: "us", time.Millisecond: "ms"}[unit]
	if name != "" {
		name += "-"
	}
	slices.Sort(times)
	for _, percent := range percents {
		which := fmt.Sprint("p", percent)
		if percent == 100 {
			which = "max"
		}
		at := times[min(len(times)*percent/100, len(times)-1)]
		b.ReportMetric(float64(at)/float64(unit), name+which+"-"+suffix)
	}
	b.ReportMetric(0, "ns/op")
}
