package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// figure is what one benchmark measured of one unit, in each of its runs.
type figure struct {
	unit   string
	values []float64 // sorted, at least one
}

func newFigure(unit string, values []float64) *figure {
	return &figure{unit, slices.Sorted(slices.Values(values))}
}

func (f *figure) min() float64 { return f.values[0] }
func (f *figure) max() float64 { return f.values[len(f.values)-1] }

func (f *figure) median() float64 {
	n := len(f.values)
	return (f.values[(n-1)/2] + f.values[n/2]) / 2
}

// times is the figure by a positive factor, in another unit.
func (f *figure) times(unit string, factor float64) *figure {
	g := &figure{unit: unit}
	for _, v := range f.values {
		g.values = append(g.values, v*factor)
	}
	return g
}

// String is the median, and of more than one run the least and the greatest:
// "1.1 ms (0.9 to 1.3)".
func (f *figure) String() string {
	if f == nil {
		return "not measured"
	}
	f = f.readable()
	median := number(f.median()) + " " + f.unit
	if len(f.values) == 1 {
		return median
	}
	return fmt.Sprintf("%s (%s to %s)", median, number(f.min()), number(f.max()))
}

// readable is the figure in the unit that a reader expects: of "p50-us",
// "close-p99-ms", "s-ready", "MB-rss" and "%conn/s" the part that says how much.
func (f *figure) readable() *figure {
	if strings.HasPrefix(f.unit, "%") {
		return f.times("%", 1)
	}
	for part := range strings.SplitSeq(f.unit, "-") {
		switch part {
		case "ms", "s", "MB":
			return f.times(part, 1)
		case "us":
			return f.times("µs", 1)
		case "ns/op":
			return f.fromNanoseconds()
		}
	}
	return f
}

func (f *figure) fromNanoseconds() *figure {
	switch m := f.median(); {
	case m >= 1e9:
		return f.times("s", 1e-9)
	case m >= 1e6:
		return f.times("ms", 1e-6)
	case m >= 1e3:
		return f.times("µs", 1e-3)
	default:
		return f.times("ns", 1)
	}
}

// number writes three digits, but no more than two decimals and no fewer than the
// whole number, with commas: 0.41, 9.7, 23,412.
func number(v float64) string {
	decimals := 2
	if v >= 1 {
		decimals = max(0, 2-int(math.Log10(v)))
	}
	whole, fraction, _ := strings.Cut(strconv.FormatFloat(v, 'f', decimals, 64), ".")
	for at := len(whole) - 3; at > 0; at -= 3 {
		whole = whole[:at] + "," + whole[at:]
	}
	if fraction = strings.TrimRight(fraction, "0"); fraction == "" {
		return whole
	}
	return whole + "." + fraction
}
