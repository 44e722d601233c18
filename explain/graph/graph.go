package graph

// Graph is a directed graph. It is drawn in columns if a node has one, and else in a circle.
type Graph struct {
	// Title says in a few words what is drawn, Description in a sentence or two. A screen reader reads
	// them.
	Title, Description string
	Nodes              []Node
	Edges              []Edge
}

// Node is a node of a Graph.
type Node struct {
	// Label is what people read. Nodes may have the same.
	Label string
	// Group is what it belongs to; nodes of a group are drawn together. It may be empty.
	Group string
	// Column is where it is drawn, from 1 at the left; 0: in no column.
	Column int
}

// Edge goes from one node to another, or to the same.
type Edge struct {
	// From and To are places in Nodes.
	From, To int
	// Label is what people read. Where a drawing has no room for it, it is shown for an edge that is
	// pointed at.
	Label string
	// Dashed edges hold in part.
	Dashed bool
}
