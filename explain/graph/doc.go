// Package graph draws directed graphs, as DOT for Graphviz and as SVG that needs nothing else. It knows
// nothing of what its nodes stand for. The same graph is always drawn the same.
//
//	graph.go   Graph: nodes in groups, and edges with labels
//	dot.go     DOT
//	svg.go     SVG
//	layout.go  where SVG draws what: in columns, or in a circle
package graph
