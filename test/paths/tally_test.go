package paths_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/stage"
)

// tally puts similar frames together.
type tally map[similar]*differences

// similar is what the frames of a line have in common.
type similar struct {
	from, at  stage.ActorID
	kind      string
	forbidden bool
	origin    string
}

// differences are what they have of the rest, and how many they are.
type differences struct {
	count            int
	numbers          map[class]map[int]bool
	hops             map[int]bool
	wraps            map[lab.Wrap]bool
	sources, targets map[string]bool
	stations         map[string]bool
}

func (t tally) add(f frame, at stage.ActorID) {
	key := similar{from: f.from, at: at, kind: f.kind(), forbidden: forbidden(f), origin: f.src.origin()}
	d := t[key]
	if d == nil {
		d = &differences{
			numbers: map[class]map[int]bool{}, hops: map[int]bool{}, wraps: map[lab.Wrap]bool{},
			sources: map[string]bool{}, targets: map[string]bool{}, stations: map[string]bool{},
		}
		t[key] = d
	}
	d.count++
	if d.numbers[f.class] == nil {
		d.numbers[f.class] = map[int]bool{}
	}
	d.numbers[f.class][int(f.number)], d.hops[int(f.hop)], d.wraps[f.wrap] = true, true, true
	d.sources[f.src.name(f.class.is6())], d.targets[f.dst.name(f.class.is6())] = true, true
	d.stations[f.mac.String()] = true
}

// kind is what a frame is, roughly.
func (f frame) kind() string {
	family := map[bool]string{false: "IPv4", true: "IPv6"}[f.class.is6()]
	switch {
	case f.class == arp:
		return "ARP"
	case f.class == ethertype:
		return "neither IP nor ARP"
	case f.wrap == lab.Plain:
		return family
	case f.wrap >= lab.HopByHop:
		return family + " with an extension header"
	case f.untyped():
		return family + " wrapped up"
	}
	return family + " wrapped up as the stack unwraps it"
}

// origin is whether a source address is the sender's.
func (s scope) origin() string {
	switch {
	case s == nowhere:
		return ""
	case s >= remote:
		return " from another's address"
	case s == global:
		return " from its own global address"
	}
	return " from an address that is nobody's alone"
}

// lines are one for each similar.
func (t tally) lines() (lines []string) {
	keys := slices.SortedFunc(maps.Keys(t), func(a, b similar) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.at, b.at), strings.Compare(a.kind+a.origin, b.kind+b.origin), strings.Compare(fmt.Sprint(a), fmt.Sprint(b)))
	})
	for _, key := range keys {
		lines = append(lines, key.line(t[key]))
	}
	return lines
}

func (k similar) line(d *differences) string {
	what := k.kind + k.origin
	if k.forbidden {
		what = "a router's message, " + what
	}
	parts := []string{fmt.Sprintf("%s -> %s: %d of %s", k.from, k.at, d.count, what)}
	for _, c := range slices.Sorted(maps.Keys(d.numbers)) {
		parts = append(parts, fmt.Sprintf("%s %s", c, ranges(d.numbers[c], map[bool]string{false: "%d", true: "%#04x"}[c == ethertype])))
	}
	var wraps []string
	for _, w := range slices.Sorted(maps.Keys(d.wraps)) {
		if w != lab.Plain {
			wraps = append(wraps, w.String())
		}
	}
	if len(wraps) > 0 {
		parts = append(parts, "wrapped: "+strings.Join(wraps, "|"))
	}
	if !d.hops[0] {
		parts = append(parts, "hop limit "+ranges(d.hops, "%d"))
	}
	if !d.targets[nowhere.name(false)] {
		parts = append(parts, "from "+words(d.sources), "to "+words(d.targets))
	}
	return strings.Join(append(parts, "MAC "+words(d.stations)), "; ")
}

func words(set map[string]bool) string { return strings.Join(slices.Sorted(maps.Keys(set)), "|") }

// ranges are numbers, those that follow each other as FIRST-LAST; if that are too many to
// read, only how many they are.
func ranges(set map[int]bool, format string) string {
	var parts []string
	numbers := slices.Sorted(maps.Keys(set))
	for i := 0; i < len(numbers); i++ {
		first := i
		for i+1 < len(numbers) && numbers[i+1] == numbers[i]+1 {
			i++
		}
		part := fmt.Sprintf(format, numbers[first])
		if i > first {
			part += "-" + fmt.Sprintf(format, numbers[i])
		}
		parts = append(parts, part)
	}
	if len(parts) > 30 {
		return fmt.Sprintf("%d numbers of "+format+"-"+format, len(numbers), numbers[0], numbers[len(numbers)-1])
	}
	return strings.Join(parts, ",")
}
