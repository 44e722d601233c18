package nft

import (
	"fmt"
	"slices"
	"strings"
)

// Tampering is a transaction of somebody else's that has changed a table of
// podfence's.
type Tampering struct {
	// Changes are what it did, such as "delete chain ingress-forward of table inet
	// podfence", in order. Empty: notices were lost, and anything may have changed.
	Changes []string
	// More is how many changes there were besides.
	More int
	// Process is the name of the process that did it, and PID its id in the initial PID
	// namespace, as the kernel tells them. If they are not known, they are empty and 0.
	Process string
	PID     uint32
}

// maxChanges is how many changes are spelled out.
const maxChanges = 4

// Add notes a change. The same change several times in a row is noted once. When a table is deleted,
// the changes to what was in it are dropped, as they are not worth telling any more.
func (t *Tampering) Add(change string) {
	if deletesTable(change) {
		t.Changes = slices.DeleteFunc(t.Changes, func(other string) bool { return !deletesTable(other) })
		t.More = 0
	}
	switch n := len(t.Changes); {
	case n > 0 && t.Changes[n-1] == change, n == maxChanges:
		t.More++
	default:
		t.Changes = append(t.Changes, change)
	}
}

func deletesTable(change string) bool { return strings.HasPrefix(change, "delete table ") }

// What says what was done.
func (t Tampering) What() string {
	if len(t.Changes) == 0 {
		return "not known: notices of changes were lost"
	}
	what := strings.Join(t.Changes, ", ")
	if t.More > 0 {
		what += fmt.Sprintf(" and %d more", t.More)
	}
	return what
}

// Who says who did it.
func (t Tampering) Who() string {
	if t.Process == "" {
		return "not known"
	}
	return fmt.Sprintf("%s (process %d)", t.Process, t.PID)
}
