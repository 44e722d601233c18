package paths_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// tally puts similar frames together.
type tally map[similar]*differences

// similar is what the frames of a line have in common.
type similar struct {
	from, at  actorID
	class     class
	wrap      wrap
	forbidden bool
	pretended bool
	dst       string
}

// differences are what they have of the rest, and how many they are.
type differences struct {
	count            int
	numbers, hops    map[int]bool
	sources, targets map[string]bool
	stations         map[string]bool
}

func (t tally) add(f frame, at actorID) {
	key := similar{from: f.from, at: at, class: f.class, wrap: f.wrap, forbidden: forbidden(f), pretended: f.src >= pretended, dst: f.dst.kind()}
	d := t[key]
	if d == nil {
		d = &differences{numbers: map[int]bool{}, hops: map[int]bool{}, sources: map[string]bool{}, targets: map[string]bool{}, stations: map[string]bool{}}
		t[key] = d
	}
	d.count++
	d.numbers[int(f.number)], d.hops[int(f.hop)] = true, true
	d.sources[f.src.name(f.class.is6())], d.targets[f.dst.name(f.class.is6())] = true, true
	d.stations[f.mac.String()] = true
}

// kind is what destinations have in common.
func (s scope) kind() string {
	switch s {
	case nowhere:
		return "frames"
	case global, internal:
		return "unicast"
	case linkLocal:
		return "link-local"
	case unspecified:
		return "unspecified"
	}
	return "multicast or broadcast"
}

// lines are one for each similar.
func (t tally) lines() (lines []string) {
	keys := slices.SortedFunc(maps.Keys(t), func(a, b similar) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.at, b.at), cmp.Compare(a.class, b.class), cmp.Compare(a.wrap, b.wrap),
			cmp.Compare(a.dst, b.dst), strings.Compare(fmt.Sprint(a), fmt.Sprint(b)))
	})
	for _, key := range keys {
		lines = append(lines, key.line(t[key]))
	}
	return lines
}

func (k similar) line(d *differences) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s -> %s: %d frames", k.from, k.at, d.count)
	if k.forbidden {
		b.WriteString(" of a router's")
	}
	if k.pretended {
		b.WriteString(" with a forged source")
	}
	format := "%d"
	if k.class == ethertype {
		format = "%#04x"
	}
	fmt.Fprintf(&b, ": %s %s", k.class, ranges(d.numbers, format))
	if k.wrap != plain {
		fmt.Fprintf(&b, ", in or behind %s", wrapNames[k.wrap])
	}
	if k.class.ip() {
		fmt.Fprintf(&b, ", hop limit %s", ranges(d.hops, "%d"))
	}
	if k.class != ethertype {
		fmt.Fprintf(&b, ", from %s, to %s", words(d.sources), words(d.targets))
	}
	fmt.Fprintf(&b, ", hardware address %s", words(d.stations))
	return b.String()
}

func words(set map[string]bool) string { return strings.Join(slices.Sorted(maps.Keys(set)), "|") }

// ranges are numbers, those that follow each other as FIRST-LAST.
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
	return strings.Join(parts, ",")
}
