package explain

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Table says how a table is written.
type Table struct {
	// NoHeaders leaves out all that is no row: titles, headers, explanations and notes.
	NoHeaders bool
	// Wide has more columns or, of a matrix, wider ones.
	Wide bool
}

// WriteText writes who reaches the subjects, and whom they reach, as two tables. The error is the writer's.
func (r *Reach) WriteText(w io.Writer, style Style, o Table) error {
	var b strings.Builder
	switch {
	case o.NoHeaders:
		writeRows(&b, slices.Concat(r.Ingress, r.Egress), style, o)
	case len(r.Subjects) == 0:
		fmt.Fprintf(&b, "%s has no pod to ask about.\n", r.Target)
	default:
		titledRows(&b, r.Target+" is reached by", "Nobody reaches "+r.Target+".", r.Ingress, style, o)
		b.WriteByte('\n')
		titledRows(&b, r.Target+" reaches", r.Target+" reaches nobody.", r.Egress, style, o)
	}
	if !o.NoHeaders {
		writeNotes(&b, mistakesFirst(r.Notes))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeNotes(b *strings.Builder, notes []Note) {
	for _, note := range notes {
		fmt.Fprintf(b, "note: %s\n", note.Message)
	}
}

func titledRows(b *strings.Builder, title, none string, rows []ReachRow, style Style, o Table) {
	if len(rows) == 0 {
		fmt.Fprintln(b, none)
		return
	}
	fmt.Fprintf(b, "%s:\n", title)
	writeRows(b, rows, style, o)
}

// writeRows writes rows as a table, indented below its title if it has one.
func writeRows(b *strings.Builder, rows []ReachRow, style Style, o Table) {
	indent := "  "
	table := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
	switch {
	case o.NoHeaders:
		indent = ""
	case o.Wide:
		fmt.Fprintln(table, "  FROM\tTO\tPODS\tPAIRS\tPORTS")
	default:
		fmt.Fprintln(table, "  FROM\tTO\tPORTS")
	}
	for _, row := range rows {
		wide := ""
		if o.Wide {
			wide = fmt.Sprintf("%s/%s\t%d/%d\t", row.From.sizeText(), row.To.sizeText(), row.Pairs, row.Of)
			row.Partly = false // which PAIRS says
		}
		ports := row.portsText()
		if row.closed() {
			ports = style.Denied(ports)
		}
		fmt.Fprintf(table, "%s%s\t%s\t%s%s\n", indent, row.From, row.To, wide, ports)
	}
	_ = table.Flush() // into memory, which does not fail
}

// sizeText is how many pods or nodes a party has; "-" of a network.
func (p Party) sizeText() string {
	if p.Size == 0 {
		return "-"
	}
	return strconv.Itoa(p.Size)
}

// Names are who reaches the subjects or is reached by them, each once and in order, as ParseTarget reads them
// where they are workloads or pods: "deploy/shop/web". The networks are as Go writes prefixes. Those to or from
// which all is closed are left out; those of which it is not known are not.
func (r *Reach) Names() []string {
	var peers []Party
	for _, row := range r.Ingress {
		if !row.closed() {
			peers = append(peers, row.From)
		}
	}
	for _, row := range r.Egress {
		if !row.closed() {
			peers = append(peers, row.To)
		}
	}
	slices.SortFunc(peers, compareParties)
	return namesOfParties(peers)
}

// Names are the parties, as Reach.Names has them.
func (m *ReachMatrix) Names() []string { return namesOfParties(m.Parties) }

func namesOfParties(parties []Party) (names []string) {
	for _, p := range parties {
		name := p.String()
		if p.Kind == KindNetwork {
			name = p.Network.String()
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// widest is how wide a cell of a matrix is at most. Longer answers get a letter, and are listed below.
const widest = 12

// WriteText writes a table: a row for each party that packets come from, a column for each that they go
// to. Columns have the numbers of the rows. Cells that would be wide have a number, and are written below,
// unless the table is Wide or has NoHeaders. The error is the writer's.
func (m *ReachMatrix) WriteText(w io.Writer, _ Style, o Table) error {
	var b strings.Builder
	if len(m.Parties) > 0 {
		m.table(&b, o)
	}
	if !o.NoHeaders {
		writeNotes(&b, m.Notes)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (m *ReachMatrix) table(b *strings.Builder, o Table) {
	cells := map[[2]string][]ReachCell{}
	for _, cell := range m.Cells {
		key := [2]string{cell.From, cell.To}
		cells[key] = append(cells[key], cell)
	}
	letters := &legend{places: map[string]int{}, whole: o.Wide || o.NoHeaders}
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	if !o.NoHeaders {
		fmt.Fprint(table, "FROM \\ TO")
		for i := range m.Parties {
			fmt.Fprintf(table, "\t%d", i+1)
		}
		fmt.Fprintln(table)
	}
	for i, from := range m.Parties {
		fmt.Fprintf(table, "%d %s", i+1, from)
		for j, to := range m.Parties {
			fmt.Fprintf(table, "\t%s", m.cellText(letters, cells, i == j, from, to))
		}
		fmt.Fprintln(table)
	}
	_ = table.Flush() // into memory, which does not fail
	if o.NoHeaders {
		return
	}
	fmt.Fprintf(b, "\nThe rows are where packets come from, the columns, by the same numbers, where they go to.\n"+
		"all: all ports, and ICMP; numbers without a protocol are TCP; ~: for some of the pods only; -: closed;\n"+
		"\": as for the network around it; .: nothing to ask about\n")
	if slices.ContainsFunc(m.Cells, func(c ReachCell) bool { return len(c.Unknown) > 0 }) {
		fmt.Fprintln(b, "?: not known, as a rule names addresses and the pod has none yet")
	}
	if slices.ContainsFunc(m.Cells, func(c ReachCell) bool { return namesOthers(c.Open) || namesOthers(c.Unknown) }) {
		fmt.Fprintln(b, "other: ICMP and other protocols, which have no ports to policies")
	}
	for i, text := range letters.texts {
		fmt.Fprintf(b, "[%d]: %s\n", i+1, text)
	}
}

// cellText is what stands in the cell of two parties.
func (m *ReachMatrix) cellText(letters *legend, cells map[[2]string][]ReachCell, diagonal bool, from, to Party) string {
	of := cells[[2]string{from.String(), to.String()}]
	switch {
	case from.outside() && to.outside():
		return "." // nothing to ask about
	case len(of) > 0 || diagonal && from.Size > 1:
	case diagonal:
		return "."
	case from.Kind == KindDomain || to.Kind == KindDomain || m.around(from, to, cells):
		return "\"" // as the network around it
	}
	return letters.cell(of)
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
	// whole: all fit.
	whole bool
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
	if l.whole || len(text) <= widest {
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

// shortPorts are ports in few letters: "80,443", "53/udp", "all/tcp", "other" for protocols without ports, and "all"
// for all of these.
func shortPorts(ports []OpenPorts) string {
	var texts []string
	if everything(ports) {
		return "all"
	}
	for _, p := range ports {
		for _, text := range p.Ports {
			switch {
			case p.Protocol == OtherProtocols:
				text = OtherProtocols
			case p.Protocol != "TCP" || text == "all":
				text += "/" + strings.ToLower(p.Protocol)
			}
			texts = append(texts, text)
		}
	}
	return strings.Join(texts, ",")
}

// namesOthers reports whether protocols without ports are named beside ports, as not all of these are open.
func namesOthers(ports []OpenPorts) bool {
	return !everything(ports) && slices.ContainsFunc(ports, func(p OpenPorts) bool { return p.Protocol == OtherProtocols })
}

// short is an opening in few letters: "80,443", "~all", "?443" for a port of which nobody knows.
func (o Opening) short() string {
	text := shortPorts(o.Open)
	switch {
	case o.closed():
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
