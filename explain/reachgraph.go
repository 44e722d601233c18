package explain

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/podfence/podfence/explain/graph"
)

// Graph is a Reach as a graph of three columns: who reaches the subjects, the subjects, and whom they
// reach. Who does both is in both.
func (r *Reach) Graph() *graph.Graph {
	b := graphBuilder{places: map[string]int{}}
	for _, p := range r.Subjects {
		b.node(p, 2)
	}
	for _, row := range r.Ingress {
		b.edge(row, b.node(row.From, b.column(row.From, 1)), b.node(row.To, 2))
	}
	for _, row := range r.Egress {
		b.edge(row, b.node(row.From, 2), b.node(row.To, b.column(row.To, 3)))
	}
	b.graph.Title = "Who reaches " + r.Target + ", and what it reaches"
	b.graph.Description = fmt.Sprintf("At the left who reaches %s, at the right what it reaches. An arrow has the ports that are open, and is dashed if that holds for some of the pods only.", r.Target)
	return &b.graph
}

// Graph is a matrix as a graph of its workloads, and of what is outside of which it says something.
func (m *ReachMatrix) Graph() *graph.Graph {
	b := graphBuilder{places: map[string]int{}}
	parties := map[string]Party{}
	for _, p := range m.Parties {
		parties[p.String()] = p
		if !p.outside() {
			b.node(p, 0)
		}
	}
	for _, cell := range m.Cells {
		row := ReachRow{parties[cell.From], parties[cell.To], cell.Opening}
		b.edge(row, b.node(row.From, 0), b.node(row.To, 0))
	}
	b.graph.Title = "Who reaches whom in namespace " + m.Namespace
	if m.Namespace == "" {
		b.graph.Title = "Who reaches whom"
	}
	b.graph.Description = fmt.Sprintf("%d workloads and networks, with an arrow from each to each that it reaches. An arrow is dashed if that holds for some of the pods only, or if it says that a network is closed out.", len(b.graph.Nodes))
	return &b.graph
}

// graphBuilder makes a graph of rows. Rows of the same two parties become one edge.
type graphBuilder struct {
	graph  graph.Graph
	places map[string]int
}

// node is the place of a party in a column, which becomes part of the graph.
func (b *graphBuilder) node(p Party, column int) int {
	key := fmt.Sprint(column, p)
	place, has := b.places[key]
	if !has {
		place = len(b.graph.Nodes)
		b.places[key] = place
		b.graph.Nodes = append(b.graph.Nodes, graph.Node{Label: p.String(), Group: cmp.Or(p.Namespace, strings.ToLower(string(p.Kind))), Column: column})
	}
	return place
}

// column is that of the subjects for a party that is one, and else the given one.
func (b *graphBuilder) column(p Party, other int) int {
	if _, is := b.places[fmt.Sprint(2, p)]; is {
		return 2
	}
	return other
}

func (b *graphBuilder) edge(row ReachRow, from, to int) {
	key := fmt.Sprint("edge ", from, to)
	label := row.portsText()
	if place, has := b.places[key]; has {
		e := &b.graph.Edges[place]
		if !strings.Contains(e.Label, label) {
			e.Label += "; " + label
		}
		return
	}
	b.places[key] = len(b.graph.Edges)
	b.graph.Edges = append(b.graph.Edges, graph.Edge{From: from, To: to, Label: label, Dashed: row.Partly || len(row.Open) == 0 || len(row.Unknown) > 0})
}
