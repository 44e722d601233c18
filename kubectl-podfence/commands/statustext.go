package commands

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/podfence/podfence/explain"
)

// manyNodes is up to how many nodes there is a row for each: what one screen holds.
const manyNodes = 20

// writeText writes a status for people. Ages are those at the time that is given.
func (s *Status) writeText(w io.Writer, o *output, style explain.Style, now time.Time) error {
	nodes := s.Nodes
	var b strings.Builder
	if len(nodes) > manyNodes && !o.is("wide") {
		b.WriteString(s.Summary.text(style))
		nodes = slices.DeleteFunc(slices.Clone(nodes), func(n NodeStatus) bool { return n.State == Ready })
		if len(nodes) > manyNodes {
			fmt.Fprintf(&b, "Not ready, the first %d of %d nodes (all: -o wide):\n", manyNodes, len(nodes))
			nodes = nodes[:manyNodes]
		}
	}
	if len(nodes) > 0 {
		if err := o.table(&b, nodesTable(nodes, now)); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		if n.Message != "" {
			fmt.Fprintf(&b, "\n%s %s: %s\n", cmp.Or(n.Node, n.Agent), style.Denied(string(n.State)), printers.EscapeTerminal(n.Message))
		}
		if n.Answer == nil {
			continue
		}
		for _, pod := range n.Answer.Waiting {
			fmt.Fprintf(&b, "%s: pod %s/%s waits: %s\n", n.Node, pod.Namespace, pod.Name, printers.EscapeTerminal(pod.Reason))
		}
	}
	if len(s.Problems) > 0 {
		b.WriteString("\nProblems of policies:\n")
		if err := o.table(&b, s.problemsTable()); err != nil {
			return err
		}
	}
	for _, note := range s.Notes {
		fmt.Fprintf(&b, "note: %s\n", note.Message)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// text is the summary in a few lines.
func (s *Summary) text(style explain.Style) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d nodes: %s", s.Nodes, style.Allowed(fmt.Sprintf("%d ready", s.Ready)))
	for _, part := range []struct {
		count int
		what  string
	}{{s.NotReady, "not ready"}, {s.NoAgent, "without an agent"}, {s.NoAnswer, "whose agent does not answer"}} {
		if part.count > 0 {
			fmt.Fprintf(&b, ", %s", style.Denied(fmt.Sprintf("%d %s", part.count, part.what)))
		}
	}
	var versions []string
	for _, version := range sortedNames(s.Versions) {
		versions = append(versions, fmt.Sprintf("%s (%d)", printers.EscapeTerminal(version), s.Versions[version]))
	}
	fmt.Fprintf(&b, "\nversions: %s\n", cmp.Or(strings.Join(versions, ", "), "none"))
	fmt.Fprintf(&b, "pods: %d, of which %d wait; policies refused: %d, unreadable: %d; repairs: %d\n", s.Pods, s.Waiting, s.Refused, s.Unreadable, s.Repairs)
	return b.String()
}

// nodesTable has a row for each node. Columns with a priority are shown by --output wide only.
func nodesTable(nodes []NodeStatus, now time.Time) *metav1.Table {
	table := &metav1.Table{}
	for i, name := range []string{"Node", "State", "Version", "Table", "Committed", "Pods", "Policies", "Refused", "Unreadable", "Repairs", "Waiting", "Cluster-Policies", "Took", "Last-Repair", "Mode", "Started", "Agent"} {
		column := metav1.TableColumnDefinition{Name: name, Type: "string"}
		if i > 10 {
			column.Priority = 1
		}
		table.ColumnDefinitions = append(table.ColumnDefinitions, column)
	}
	for _, n := range nodes {
		const unknown = "-"
		a := n.Answer
		cells := []any{cmp.Or(n.Node, unknown), string(n.State)}
		if a == nil {
			for range 14 {
				cells = append(cells, unknown)
			}
		} else {
			owned := "unowned"
			if a.OwnsTable {
				owned = "owned"
			}
			cells = append(cells, a.Version, owned, age(a.LastCommit, now), a.Pods, a.Policies, n.Refused, n.Unreadable, a.Repairs, len(a.Waiting),
				a.ClusterPolicies, fmt.Sprintf("%.1fms", a.CommitSeconds*1000), age(a.LastRepair, now), a.Mode, age(a.StartTime, now))
		}
		table.Rows = append(table.Rows, metav1.TableRow{Cells: append(cells, cmp.Or(n.Agent, unknown))})
	}
	return table
}

// problemsTable has a row for each problem.
func (s *Status) problemsTable() *metav1.Table {
	table := &metav1.Table{}
	for _, name := range []string{"Policy", "Problem", "Nodes", "Field", "Reason"} {
		table.ColumnDefinitions = append(table.ColumnDefinitions, metav1.TableColumnDefinition{Name: name, Type: "string"})
	}
	for _, p := range s.Problems {
		what, where := "unreadable", p.Nodes[0]
		if p.Refused {
			what = "refused"
		}
		if len(p.Nodes) > 1 {
			where = fmt.Sprintf("%d of %d", len(p.Nodes), s.Summary.Nodes)
		}
		table.Rows = append(table.Rows, metav1.TableRow{Cells: []any{p.Policy.String(), what, where, cmp.Or(p.Field, "-"), p.Reason}})
	}
	return table
}

// age is how long ago a time was.
func age(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return duration.HumanDuration(now.Sub(t))
}
