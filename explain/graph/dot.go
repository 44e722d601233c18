package graph

import (
	"fmt"
	"io"
	"strings"
)

// WriteDOT writes a graph in the language of Graphviz: "dot -Tsvg" draws it. The error is the writer's.
func (g *Graph) WriteDOT(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "digraph {\n  label=%s; labelloc=t; rankdir=LR;\n  node [shape=box, style=rounded, fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\", fontsize=10];\n", quoted(g.Title))
	written := map[string]bool{}
	for _, n := range g.Nodes {
		if written[n.Group] {
			continue
		}
		written[n.Group] = true
		indent := "  "
		if n.Group != "" {
			fmt.Fprintf(&b, "  subgraph %s {\n    label=%s;\n", quoted("cluster_"+n.Group), quoted(n.Group))
			indent = "    "
		}
		for i, of := range g.Nodes {
			if of.Group == n.Group {
				fmt.Fprintf(&b, "%sn%d [label=%s];\n", indent, i, quoted(of.Label))
			}
		}
		if n.Group != "" {
			b.WriteString("  }\n")
		}
	}
	for _, e := range g.Edges {
		style := ""
		if e.Dashed {
			style = ", style=dashed"
		}
		fmt.Fprintf(&b, "  n%d -> n%d [label=%s%s];\n", e.From, e.To, quoted(e.Label), style)
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// quoted is a text as DOT has it. In a label, a backslash would begin an escape of DOT's own.
func quoted(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(text) + `"`
}
