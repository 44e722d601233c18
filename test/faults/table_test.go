package faults

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// row is a fault's in the table.
type row struct{ name, kind, text, suite, cases, took string }

// What a row has in place of a number: nothing was found, or nothing was looked for yet.
const notFound, notRun = "**not found**", "not run yet"

// with is a row with what the patch says.
func (r row) with(f fault) row {
	r.name, r.kind, r.text, r.suite = f.name, f.kind, f.text, f.suite
	return r
}

func (r row) String() string {
	return fmt.Sprintf("| `%s` | %s | %s | %s | %s | %s |", r.name, r.kind, r.text, r.suite, r.cases, r.took)
}

// readRows reads a table's rows, by name.
func readRows(t *testing.T, path string) map[string]row {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]row{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		name, is := strings.CutPrefix(cells[0], "| `")
		if !is || len(cells) != 6 {
			continue
		}
		r := row{
			name: strings.TrimSuffix(name, "`"), kind: cells[1], text: cells[2], suite: cells[3], cases: cells[4],
			took: strings.TrimSpace(strings.TrimSuffix(cells[5], "|")),
		}
		rows[r.name] = r
	}
	return rows
}
