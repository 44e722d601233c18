package main

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// moreIsBetter are the units of which a larger figure is the better one: how much is done in a time.
var moreIsBetter = regexp.MustCompile(`^[A-Za-z]+/s$`)

// saysNothing are the units that are neither better nor worse, such as how many cores a machine has, and
// the ends of another unit's interval.
var saysNothing = regexp.MustCompile(`^%|-(lo|hi)$|^cores$`)

// worsened is a figure that is worse than it was.
type worsened struct {
	name, unit string
	old, new   *figure
	percent    float64
}

// compare writes as Markdown which figures of a folder's results are worse than another's by more than
// a number of percent, the worst first, and returns how many. A figure counts only if chance cannot have
// done it: the old and the new runs, with their intervals, must not overlap. What only one of the two
// folders has is left out. It is an error if the two have nothing in common.
func compare(oldFolder, newFolder string, limit float64, out io.Writer) (int, error) {
	before, err := read(oldFolder)
	if err != nil {
		return 0, err
	}
	after, err := read(newFolder)
	if err != nil {
		return 0, err
	}
	var worse []worsened
	compared := 0
	for _, name := range slices.Sorted(maps.Keys(after.values)) {
		for _, unit := range slices.Sorted(maps.Keys(after.values[name])) {
			if before.values[name][unit] == nil || saysNothing.MatchString(unit) {
				continue
			}
			compared++
			if w := worseThan(name, unit, before, after); w.percent > limit {
				worse = append(worse, w)
			}
		}
	}
	if compared == 0 {
		return 0, fmt.Errorf("%s and %s have no figure in common: there is nothing to compare", oldFolder, newFolder)
	}
	slices.SortStableFunc(worse, func(a, b worsened) int { return int(b.percent - a.percent) })
	fmt.Fprintf(out, "%d of %d figures are more than %g %% worse at %s than at %s.\n", len(worse), compared, limit, after.joined("commit"), before.joined("commit"))
	if len(worse) > 0 {
		fmt.Fprintf(out, "\n| benchmark | unit | %s | %s | worse by |\n| --- | --- | --- | --- | --- |\n", before.joined("commit"), after.joined("commit"))
	}
	for _, w := range worse {
		fmt.Fprintf(out, "| %s | %s | %s | %s | %.0f %% |\n", w.name, w.unit, w.old, w.new, w.percent)
	}
	return len(worse), nil
}

// worseThan says by how many percent of the old median the new one is worse; 0 if it is not, or if
// chance may have done it. What has come from nothing is worse without end, and counts as 1000 %.
func worseThan(name, unit string, before, after *results) worsened {
	figureOf := func(r *results) *figure {
		units := r.values[name]
		return newFigure(unit, units[unit], units[unit+"-lo"], units[unit+"-hi"])
	}
	w := worsened{name: name, unit: unit, old: figureOf(before), new: figureOf(after)}
	apart, more := w.new.low > w.old.high, w.new.median()-w.old.median()
	if moreIsBetter.MatchString(strings.TrimPrefix(unit, "%")) {
		apart, more = w.new.high < w.old.low, -more
	}
	switch {
	case !apart || more <= 0:
	case w.old.median() == 0:
		w.percent = 1000
	default:
		w.percent = 100 * more / w.old.median()
	}
	return w
}
