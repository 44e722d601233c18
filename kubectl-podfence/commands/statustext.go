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

	"github.com/podfence/podfence/api/answers"
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

// unknown stands in a cell for what only an agent that answers could say.
const unknown = "-"

// nodeColumn is a column of the table of nodes that an agent's answer fills.
type nodeColumn struct {
	name string
	cell func(n *NodeStatus, a *answers.Status, now time.Time) any
}

// nodeColumns are shown always, and wideColumns by --output wide only.
var (
	nodeColumns = []nodeColumn{
		{"Version", func(_ *NodeStatus, a *answers.Status, _ time.Time) any { return a.AgentVersion }},
		{"Table", func(_ *NodeStatus, a *answers.Status, _ time.Time) any { return tableOf(a) }},
		{"Committed", func(_ *NodeStatus, a *answers.Status, now time.Time) any { return lastCommit(a, now) }},
		{"Pods", func(_ *NodeStatus, a *answers.Status, _ time.Time) any { return a.Pods.Fenced }},
		{"Policies", func(_ *NodeStatus, a *answers.Status, _ time.Time) any { return a.Policies.Total }},
		{"Refused", func(n *NodeStatus, _ *answers.Status, _ time.Time) any { return n.Refused }},
		{"Unreadable", func(n *NodeStatus, _ *answers.Status, _ time.Time) any { return n.Unreadable }},
		{"Repairs", func(_ *NodeStatus, a *answers.Status, _ time.Time) any { return a.Repairs.Count }},
		{"Waiting", func(_ *NodeStatus, a *answers.Status, _ time.Time) any { return a.Pods.Waiting }},
	}
	wideColumns = []nodeColumn{
		{"Isolated", func(_ *NodeStatus, a *answers.Status, _ time.Time) any { return a.Pods.Isolated }},
		{"Staged", func(_ *NodeStatus, a *answers.Status, _ time.Time) any { return a.Policies.Staged }},
		{"Staged-Pods", func(_ *NodeStatus, a *answers.Status, _ time.Time) any { return a.Pods.Staged }},
		{"Active-Policies", func(_ *NodeStatus, a *answers.Status, _ time.Time) any { return a.Policies.Active }},
		{"Took", func(_ *NodeStatus, a *answers.Status, _ time.Time) any { return commitTime(a) }},
		{"Last-Repair", func(_ *NodeStatus, a *answers.Status, now time.Time) any { return lastRepair(a, now) }},
		{"Mode", func(_ *NodeStatus, a *answers.Status, _ time.Time) any { return a.Options.CNI }},
		{"Started", func(_ *NodeStatus, a *answers.Status, now time.Time) any { return age(a.Started, now) }},
	}
)

func tableOf(a *answers.Status) string {
	if a.OwnsTables {
		return "owned"
	}
	return "unowned"
}

func lastCommit(a *answers.Status, now time.Time) string {
	if a.LastCommit == nil {
		return "never"
	}
	return age(a.LastCommit.Time, now)
}

func commitTime(a *answers.Status) string {
	if a.LastCommit == nil {
		return unknown
	}
	return fmt.Sprintf("%.1fms", a.LastCommit.DurationSeconds*1000)
}

func lastRepair(a *answers.Status, now time.Time) string {
	if a.Repairs.Last == nil {
		return "never"
	}
	return age(*a.Repairs.Last, now)
}

// nodesTable has a row for each node.
func nodesTable(nodes []NodeStatus, now time.Time) *metav1.Table {
	table := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{{Name: "Node", Type: "string"}, {Name: "State", Type: "string"}}}
	for _, column := range nodeColumns {
		table.ColumnDefinitions = append(table.ColumnDefinitions, metav1.TableColumnDefinition{Name: column.name, Type: "string"})
	}
	for _, column := range append(slices.Clone(wideColumns), nodeColumn{name: "Agent"}) {
		table.ColumnDefinitions = append(table.ColumnDefinitions, metav1.TableColumnDefinition{Name: column.name, Type: "string", Priority: 1})
	}
	for i := range nodes {
		n := &nodes[i]
		cells := []any{cmp.Or(n.Node, unknown), string(n.State)}
		for _, column := range slices.Concat(nodeColumns, wideColumns) {
			if n.Answer == nil {
				cells = append(cells, unknown)
			} else {
				cells = append(cells, column.cell(n, n.Answer, now))
			}
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
		if p.Staged {
			what += " (staged)"
		}
		if len(p.Nodes) > 1 {
			where = fmt.Sprintf("%d of %d", len(p.Nodes), s.Summary.Nodes)
		}
		table.Rows = append(table.Rows, metav1.TableRow{Cells: []any{policyOf(p.PolicyProblem), what, where, cmp.Or(p.Field, "-"), reasonOf(p)}})
	}
	return table
}

// reasonOf is the reason of a problem, and how many more of its kind the policy has.
func reasonOf(p PolicyProblem) string {
	if p.More > 0 {
		return fmt.Sprintf("%s (and %d more)", p.Reason, p.More)
	}
	return p.Reason
}

// age is how long ago a time was.
func age(t, now time.Time) string {
	return duration.HumanDuration(now.Sub(t))
}
