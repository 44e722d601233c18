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
	// low and high are how far chance may have moved it: the least and the greatest of the
	// runs, or, if that is more, a run's own interval.
	low, high float64
}

// newFigure is a figure of runs, and of the ends of their intervals, if they have told of
// such.
func newFigure(unit string, values, lows, highs []float64) *figure {
	f := &figure{unit: unit, values: slices.Sorted(slices.Values(values))}
	f.low, f.high = f.values[0], f.values[len(f.values)-1]
	if len(lows) > 0 && len(highs) > 0 {
		f.low, f.high = min(f.low, median(lows)), max(f.high, median(highs))
	}
	return f
}

func (f *figure) median() float64 { return median(f.values) }

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// times is the figure by a positive factor, in another unit.
func (f *figure) times(unit string, factor float64) *figure {
	g := &figure{unit: unit, low: f.low * factor, high: f.high * factor}
	for _, v := range f.values {
		g.values = append(g.values, v*factor)
	}
	return g
}

// minus is the difference to another figure of the unit. Chance may have moved either.
func (f *figure) minus(g *figure) *figure {
	return &figure{unit: f.unit, values: []float64{f.median() - g.median()}, low: f.low - g.high, high: f.high - g.low}
}

// String is the median and, unless it is all there is, what is between low and high: "1.1 ms
// (0.9 to 1.3)".
func (f *figure) String() string {
	if f == nil {
		return "not measured"
	}
	f = f.readable()
	text := number(f.median()) + " " + f.unit
	if low, high := number(f.low), number(f.high); low != high {
		text += fmt.Sprintf(" (%s to %s)", low, high)
	}
	return text
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
		case "ns/op", "ns/conn", "ns/packet":
			return f.fromNanoseconds()
		}
	}
	return f
}

func (f *figure) fromNanoseconds() *figure {
	switch m := math.Abs(f.median()); {
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
	if v < 0 {
		return "-" + number(-v)
	}
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
