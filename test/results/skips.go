package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// expectation is a line of skips.txt.
type expectation struct {
	line, pkg           string
	place, test, reason *regexp.Regexp
	used                bool
}

// parse reads skips.txt.
func parse(text string) (all []*expectation, err error) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		words := strings.Fields(line)
		if len(words) < 4 {
			return nil, fmt.Errorf("skips.txt: %q is not PLACE PACKAGE TEST REASON", line)
		}
		e := &expectation{line: line, pkg: words[1]}
		for pattern, to := range map[string]**regexp.Regexp{words[0]: &e.place, whole(words[2]): &e.test, whole(strings.Join(words[3:], " ")): &e.reason} {
			if *to, err = regexp.Compile(pattern); err != nil {
				return nil, fmt.Errorf("skips.txt: %q: %w", line, err)
			}
		}
		all = append(all, e)
	}
	return all, nil
}

// whole is a pattern that has to match all of a text.
func whole(pattern string) string { return "^(?:" + pattern + ")$" }

// at are those for a place: "TARGET RELEASE".
func at(all []*expectation, place string) []*expectation {
	return slices.DeleteFunc(all, func(e *expectation) bool { return !e.place.MatchString(place) })
}

// expects says whether a test may be skipped for a reason.
func expects(all []*expectation, pkg, test, reason string) bool {
	for _, e := range all {
		if e.pkg == pkg && e.test.MatchString(test) && e.reason.MatchString(reason) {
			e.used = true
			return true
		}
	}
	return false
}
