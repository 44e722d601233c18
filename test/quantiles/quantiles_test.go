package quantiles

import (
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		all  []time.Duration
		want time.Duration
	}{{[]time.Duration{3}, 3}, {[]time.Duration{9, 1}, 5}, {[]time.Duration{9, 1, 2}, 2}, {[]time.Duration{8, 1, 2, 4}, 3}} {
		if have := Median(c.all, func(d time.Duration) time.Duration { return d }); have != c.want {
			t.Errorf("of %d it is %d, want %d", c.all, have, c.want)
		}
	}
}
