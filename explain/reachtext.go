package explain

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// WriteText writes who reaches the subjects, and whom they reach, as two tables.
func (r *Reach) WriteText(w io.Writer, style Style) error {
	var b strings.Builder
	if len(r.Subjects) == 0 {
		fmt.Fprintf(&b, "%s has no pod to ask about.\n", r.Target)
	} else {
		writeRows(&b, r.Target+" is reached by", "Nobody reaches "+r.Target+".", r.Ingress, style)
		b.WriteByte('\n')
		writeRows(&b, r.Target+" reaches", r.Target+" reaches nobody.", r.Egress, style)
	}
	for _, note := range mistakesFirst(r.Notes) {
		fmt.Fprintf(&b, "note: %s\n", note.Message)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeRows(b *strings.Builder, title, none string, rows []ReachRow, style Style) {
	if len(rows) == 0 {
		fmt.Fprintln(b, none)
		return
	}
	fmt.Fprintf(b, "%s:\n", title)
	table := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
	fmt.Fprintf(table, "  FROM\tTO\tPORTS\n")
	for _, row := range rows {
		ports := row.portsText()
		if len(row.Open) == 0 {
			ports = style.Denied(ports)
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\n", row.From, row.To, ports)
	}
	_ = table.Flush() // into memory, which does not fail
}

// widest is how wide a cell of a matrix is at most. Longer answers get a letter, and are listed below.
const widest = 12

// WriteText writes a table: a row for each party that packets come from, a column for each that they go
// to. Columns have the numbers of the rows.
func (m *ReachMatrix) WriteText(w io.Writer, style Style) error {
	var b strings.Builder
	if len(m.Parties) > 0 {
		m.table(&b)
	}
	for _, note := range m.Notes {
		fmt.Fprintf(&b, "note: %s\n", note.Message)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (m *ReachMatrix) table(b *strings.Builder) {
	cells := map[[2]string][]ReachCell{}
	for _, cell := range m.Cells {
		key := [2]string{cell.From, cell.To}
		cells[key] = append(cells[key], cell)
	}
	letters := &legend{places: map[string]int{}}
	// Columns get the right side of their numbers aligned by tabwriter, so that it is easy to look up.
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "FROM \\ TO")
	for i := range m.Parties {
		fmt.Fprintf(table, "\t%d", i+1)
	}
	fmt.Fprintln(table)
	for i, from := range m.Parties {
		fmt.Fprintf(table, "%d %s", i+1, from)
		for j, to := range m.Parties {
			of := cells[[2]string{from.String(), to.String()}]
			text := letters.cell(of)
			switch {
			case len(of) > 0:
			case i == j && from.Size > 1:
			case from.Kind == KindNetwork && to.Kind == KindNetwork || i == j:
				text = "." // nothing to ask about
			case m.around(from, to, cells):
				text = "\"" // as the network around it
			}
			fmt.Fprintf(table, "\t%s", text)
		}
		fmt.Fprintln(table)
	}
	_ = table.Flush() // into memory, which does not fail
	fmt.Fprintf(b, "\nThe rows are where packets come from, the columns, by the same numbers, where they go to.\n"+
		"all: all ports; numbers without a protocol are TCP; ~: for some of the pods only; -: closed;\n"+
		"\": as for the network around it; .: nothing to ask about\n")
	for i, text := range letters.texts {
		fmt.Fprintf(b, "[%d]: %s\n", i+1, text)
	}
}

// around reports whether a pair without a cell of its own has a network around one of the two, by which it
// goes.
func (m *ReachMatrix) around(from, to Party, cells map[[2]string][]ReachCell) bool {
	return slices.ContainsFunc(m.Parties, func(p Party) bool {
		switch {
		case p.Kind != KindNetwork:
			return false
		case from.Kind == KindNetwork:
			return p.Network != from.Network && p.Network.Overlaps(from.Network) && p.Network.Bits() < from.Network.Bits() && len(cells[[2]string{p.String(), to.String()}]) > 0
		}
		return p.Network != to.Network && p.Network.Overlaps(to.Network) && p.Network.Bits() < to.Network.Bits() && len(cells[[2]string{from.String(), p.String()}]) > 0
	})
}

// legend are the answers that do not fit into a cell.
type legend struct {
	texts  []string
	places map[string]int
}

// cell is what stands in a cell of a table.
func (l *legend) cell(cells []ReachCell) string {
	if len(cells) == 0 {
		return "-"
	}
	texts := make([]string, len(cells))
	for i, cell := range cells {
		texts[i] = cell.short()
	}
	text := strings.Join(texts, "; ")
	if len(text) <= widest {
		return text
	}
	place, has := l.places[text]
	if !has {
		l.texts = append(l.texts, text)
		place = len(l.texts)
		l.places[text] = place
	}
	return fmt.Sprintf("[%d]", place)
}

// shortPorts are ports in few letters: "80,443", "53/udp", "all".
func shortPorts(ports []OpenPorts) string {
	var texts []string
	for _, p := range ports {
		for _, text := range p.Ports {
			if p.Protocol != "TCP" {
				text += "/" + strings.ToLower(p.Protocol)
			}
			texts = append(texts, text)
		}
	}
	text := strings.Join(texts, ",")
	switch {
	case everything(ports):
		return "all"
	case text == "all":
		return "all/tcp"
	}
	return text
}

// short is an opening in few letters: "80,443", "~all", "?443" for a port of which nobody knows.
func (o Opening) short() string {
	text := shortPorts(o.Open)
	switch {
	case len(o.Open) == 0 && len(o.Unknown) == 0:
		text = "-"
	case len(o.Open) == 0:
		text = "?" + shortPorts(o.Unknown)
	case len(o.Unknown) > 0:
		text += ",?" + shortPorts(o.Unknown)
	}
	if o.Partly {
		text = "~" + text
	}
	if o.Family != "" {
		text = o.Family + " " + text
	}
	return text
}
