package explain_test

import (
	"fmt"
	"testing"
)

// inRanges reads ranges of ports as OpenPorts has them.
func inRanges(t *testing.T, texts []string) func(uint16) bool {
	t.Helper()
	type ports struct{ first, last uint16 }
	var all []ports
	for _, text := range texts {
		var p ports
		if text == "all" {
			p = ports{1, 65535}
		} else if n, _ := fmt.Sscanf(text, "%d-%d", &p.first, &p.last); n == 1 {
			p.last = p.first
		} else if n != 2 {
			t.Fatalf("%q is no range of ports", text)
		}
		all = append(all, p)
	}
	return func(port uint16) bool {
		for _, p := range all {
			if p.first <= port && port <= p.last {
				return true
			}
		}
		return false
	}
}
