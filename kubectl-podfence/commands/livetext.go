package commands

import (
	"fmt"
	"io"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/podfence/podfence/explain"
)

// writeLive writes which connections would be cut, for people: a row for each pair of workloads, port and reason; below,
// the rules that would have to be added. Ages are those at the time that is given.
func writeLive(w io.Writer, d *explain.LiveDiff, o *output, style explain.Style, now time.Time) error {
	var b strings.Builder
	switch looked := fmt.Sprintf("%s on %s", counted(d.Open, "open connection"), counted(len(d.Nodes), "node")); {
	case len(d.Cuts) == 0 && d.LeftOut == 0:
		fmt.Fprintf(&b, "%s: of %s.\n", style.Allowed("Nothing would be cut"), looked)
	default:
		fmt.Fprintf(&b, "%s, of %s:\n\n", style.Denied(counted(d.Pairs, "pair")+" of workloads would be cut"), looked)
		if err := o.table(&b, liveTable(d, now)); err != nil {
			return err
		}
	}
	if d.LeftOut > 0 {
		fmt.Fprintf(&b, "and %s of others\n", counted(d.LeftOut, "connection"))
	}
	for _, rule := range d.Rules {
		b.WriteString("\n")
		writeRule(&b, rule, style)
	}
	for _, note := range d.Notes {
		fmt.Fprintf(&b, "note: %s\n", note.Message)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeRule writes a rule that would have to be added.
func writeRule(b *strings.Builder, rule explain.LiveRule, style explain.Style) {
	name := rule.Policy.Kind + " " + rule.Policy.Name
	if rule.Policy.Namespace != "" {
		name = rule.Policy.Kind + " " + rule.Policy.Namespace + "/" + rule.Policy.Name
	}
	where := "To keep them, add to " + rule.Field + " of " + name
	switch {
	case rule.New:
		where = "To keep them, add a policy"
	case rule.Before != nil:
		where += fmt.Sprintf(", before rule %d", *rule.Before)
	}
	fmt.Fprintf(b, "# %s:\n", printers.EscapeTerminal(where))
	for _, what := range rule.Allows {
		fmt.Fprintf(b, "%s\n", style.Quiet("#   "+printers.EscapeTerminal(what)))
	}
	if rule.Message != "" {
		fmt.Fprintf(b, "# %s\n", printers.EscapeTerminal(rule.Message))
	}
	b.WriteString(rule.YAML)
}

// liveTable has a row for each cut.
func liveTable(d *explain.LiveDiff, now time.Time) *metav1.Table {
	table := &metav1.Table{}
	for _, name := range []string{"Source", "Destination", "Port", "Flows", "Bytes", "Last-Seen", "Cut-By"} {
		table.ColumnDefinitions = append(table.ColumnDefinitions, metav1.TableColumnDefinition{Name: strings.ReplaceAll(name, "-", " "), Type: "string"})
	}
	for _, c := range d.Cuts {
		port := c.Protocol
		if c.Port != 0 {
			port = fmt.Sprintf("%d/%s", c.Port, c.Protocol)
		}
		bytes, seen, by := unknown, unknown, c.By
		if c.CountedFlows > 0 {
			bytes = byteCount(c.Bytes)
		}
		if !c.LastSeen.IsZero() {
			seen = age(c.LastSeen, now)
		}
		if c.Direction != "" {
			by = c.Direction + ": " + by
		}
		table.Rows = append(table.Rows, metav1.TableRow{Cells: []any{c.From.String(), c.To.String(), port, c.Flows, bytes, seen, by}})
	}
	return table
}

// counted is a number of things.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// byteCount is a number of bytes, to three digits.
func byteCount(n uint64) string {
	const step = 1024
	if n < step {
		return fmt.Sprintf("%dB", n)
	}
	amount, unit := float64(n)/step, 0
	for ; amount >= step; unit++ {
		amount /= step
	}
	return fmt.Sprintf("%.3g%ciB", amount, "KMGTPE"[unit])
}
