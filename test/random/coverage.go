package random

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Coverage counts the cases of a test in which each of its features has come up. A feature
// is looked for in the case itself, not where the case was drawn, so that it is not counted
// if it was meant to come and did not. The zero value is none of any. It is for one
// goroutine at a time.
type Coverage struct {
	// Cases is how many there were, Hits in how many of them each feature came up.
	Cases int
	Hits  map[string]int
}

// Count counts a case in, by all the features that it may have: whether it has each.
func (c *Coverage) Count(features map[string]bool) {
	if c.Hits == nil {
		c.Hits = map[string]int{}
	}
	c.Cases++
	for name, is := range features {
		c.Hits[name] += map[bool]int{true: 1}[is] // also names those that never come
	}
}

// Missing are the features that never came up, in order.
func (c *Coverage) Missing() (names []string) {
	for name, hits := range c.Hits {
		if hits == 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Table is how often each feature came up in 1,000 cases, the rarest first. What says what
// the cases are: "clusters".
func (c *Coverage) Table(what string) string {
	var out strings.Builder
	fmt.Fprintf(&out, "of 1,000 %s, by %d:", what, c.Cases)
	names := slices.SortedFunc(maps.Keys(c.Hits), func(a, b string) int {
		return cmp.Or(cmp.Compare(c.Hits[a], c.Hits[b]), cmp.Compare(a, b))
	})
	for _, name := range names {
		fmt.Fprintf(&out, "\n%8.1f  %s", 1000*float64(c.Hits[name])/float64(c.Cases), name)
	}
	return out.String()
}
