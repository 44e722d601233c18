package graph

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
)

// big is a graph of some workloads in three groups that all have an edge to a few others.
func big(nodes int, column func(int) int) *Graph {
	g := &Graph{Title: "Who <reaches> whom", Description: "A \"test\" & nothing more."}
	for i := range nodes {
		g.Nodes = append(g.Nodes, Node{Label: fmt.Sprintf("deploy/namespace-%d/workload-%d", i%3, i), Group: fmt.Sprintf("namespace-%d", i%3), Column: column(i)})
	}
	for i := range nodes {
		for _, step := range []int{0, 1, 7} {
			g.Edges = append(g.Edges, Edge{From: i, To: (i + step) % nodes, Label: "TCP 80", Dashed: step == 7})
		}
	}
	return g
}

// TestNothingOverlaps: up to 60 nodes are drawn apart from each other and within the drawing, and so are
// the edges.
func TestNothingOverlaps(t *testing.T) {
	for nodes := 1; nodes <= 60; nodes++ {
		for name, column := range map[string]func(int) int{
			"circle": func(int) int { return 0 }, "columns": func(i int) int { return i%3 + 1 },
		} {
			g := big(nodes, column)
			d := g.layout()
			for i, a := range d.boxes {
				if a.x-a.width/2 < 0 || a.x+a.width/2 > d.width || a.y-a.height/2 < 40 || a.y+a.height/2 > d.height {
					t.Fatalf("%s of %d: node %d is outside of the drawing: %+v in %v x %v", name, nodes, i, a, d.width, d.height)
				}
				for j, b := range d.boxes[:i] {
					if math.Abs(a.x-b.x) < (a.width+b.width)/2 && math.Abs(a.y-b.y) < (a.height+b.height)/2 {
						t.Fatalf("%s of %d: nodes %d and %d overlap: %+v, %+v", name, nodes, i, j, a, b)
					}
				}
			}
			for _, e := range g.Edges {
				start, bend, end := d.edge(e.From, e.To)
				for _, p := range []point{start, {(start.x + 2*bend.x + end.x) / 4, (start.y + 2*bend.y + end.y) / 4}, end} {
					if math.IsNaN(p.x) || math.IsNaN(p.y) || p.x < 0 || p.x > d.width || p.y < 0 || p.y > d.height {
						t.Fatalf("%s of %d: an edge from %d to %d is at %+v, outside of %v x %v", name, nodes, e.From, e.To, p, d.width, d.height)
					}
				}
			}
		}
	}
}

// TestSVG: what is written is XML, says what it is to a screen reader, and follows the reader's colours.
func TestSVG(t *testing.T) {
	var a, b bytes.Buffer
	g := big(30, func(int) int { return 0 })
	if err := errors.Join(g.WriteSVG(&a), g.WriteSVG(&b)); err != nil {
		t.Fatal(err)
	}
	if a.String() != b.String() {
		t.Error("the same graph is drawn in two ways")
	}
	elements := map[string]int{}
	decoder := xml.NewDecoder(&b)
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("this is no XML: %v", err)
		}
		if start, is := token.(xml.StartElement); is {
			elements[start.Name.Local]++
		}
	}
	if elements["svg"] != 1 || elements["desc"] != 1 || elements["title"] != 1+len(g.Edges) || elements["path"] != 1+len(g.Edges) || elements["rect"] != 1+len(g.Nodes) {
		t.Errorf("%v", elements)
	}
	for _, want := range []string{"Who &lt;reaches&gt; whom", "A &#34;test&#34; &amp; nothing more.", "prefers-color-scheme: dark", `role="img"`, "deploy/namespace-0/workload-0 -&gt; deploy/namespace-1/workload-1: TCP 80"} {
		if !strings.Contains(a.String(), want) {
			t.Errorf("there is no %q in it", want)
		}
	}
}

func TestDOT(t *testing.T) {
	g := &Graph{Title: `a "b" \n`, Nodes: []Node{{Label: "one", Group: "x"}, {Label: "two"}}, Edges: []Edge{{From: 0, To: 1, Label: "TCP 80", Dashed: true}}}
	var out bytes.Buffer
	if err := g.WriteDOT(&out); err != nil {
		t.Fatal(err)
	}
	const want = `digraph {
  label="a \"b\" \\n"; labelloc=t; rankdir=LR;
  node [shape=box, style=rounded, fontname="sans-serif"];
  edge [fontname="sans-serif", fontsize=10];
  subgraph "cluster_x" {
    label="x";
    n0 [label="one"];
  }
  n1 [label="two"];
  n0 -> n1 [label="TCP 80", style=dashed];
}
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}
