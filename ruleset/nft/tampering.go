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
	// Process is the name of who did it and PID its id, as the kernel tells them: in
	// the initial PID namespace. Empty and 0: not known.
	Process string
	PID     uint32
}

// maxChanges are spelled out.
const maxChanges = 4

// Add notes a change, once however often it comes in a row. What was in a table is
// not worth telling once the table is deleted.
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
