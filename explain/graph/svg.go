package graph

import (
	"encoding/xml"
	"fmt"
	"hash/fnv"
	"io"
	"strings"
)

// style is the same in light and in dark: the colours follow what the reader's system prefers.
const style = `
  svg { --paper: #ffffff; --ink: #1f2328; --quiet: #59636e; --box: #f6f8fa; --line: 45%; }
  @media (prefers-color-scheme: dark) { svg { --paper: #0d1117; --ink: #f0f6fc; --quiet: #9198a1; --box: #151b23; --line: 65%; } }
  .paper { fill: var(--paper); }
  text { font: 12px ui-monospace, Menlo, Consolas, monospace; fill: var(--ink); dominant-baseline: middle; }
  .title { font-size: 15px; font-weight: 600; }
  .box { fill: var(--box); stroke-width: 1.5; }
  .edge { fill: none; stroke-width: 1.3; opacity: .75; }
  .edge:hover { stroke-width: 3; opacity: 1; }
  .dashed { stroke-dasharray: 5 4; }
  .label { font-size: 11px; fill: var(--quiet); paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
`

// mostLabels is with how many edges a circle has their labels written beside them. With more, nobody could
// read them; they are shown for an edge that is pointed at.
const mostLabels = 24

// WriteSVG writes a graph as an SVG image of its own, which needs no fonts, scripts or other files. Edges
// say what they are when they are pointed at. The error is the writer's.
func (g *Graph) WriteSVG(w io.Writer) error {
	d := g.layout()
	d.width = max(d.width, widthOf(g.Title)*1.3+2*margin)
	var b strings.Builder
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-labelledby=\"title desc\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" height=\"%.0f\">\n",
		d.width, d.height, d.width, d.height)
	fmt.Fprintf(&b, "<title id=\"title\">%s</title>\n<desc id=\"desc\">%s</desc>\n<style>%s</style>\n", escaped(g.Title), escaped(g.Description), style)
	fmt.Fprintf(&b, "<defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto-start-reverse\"><path d=\"M0 0L8 4L0 8z\" fill=\"context-stroke\"/></marker></defs>\n")
	fmt.Fprintf(&b, "<rect class=\"paper\" width=\"100%%\" height=\"100%%\"/>\n<text class=\"title\" x=\"%.0f\" y=\"28\">%s</text>\n", margin, escaped(g.Title))
	for _, e := range g.Edges {
		g.edge(&b, d, e)
	}
	if d.columns || len(g.Edges) <= mostLabels {
		for _, e := range g.Edges {
			start, bend, end := d.edge(e.From, e.To)
			x, y := (start.x+2*bend.x+end.x)/4, (start.y+2*bend.y+end.y)/4
			fmt.Fprintf(&b, "<text class=\"label\" text-anchor=\"middle\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", x, y, escaped(e.Label))
		}
	}
	for i, n := range g.Nodes {
		at := d.boxes[i]
		fmt.Fprintf(&b, "<rect class=\"box\" style=\"%s\" rx=\"5\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n", colour(n.Group), at.x-at.width/2, at.y-at.height/2, at.width, at.height)
		fmt.Fprintf(&b, "<text text-anchor=\"middle\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", at.x, at.y, escaped(n.Label))
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (g *Graph) edge(b *strings.Builder, d drawing, e Edge) {
	start, bend, end := d.edge(e.From, e.To)
	class := "edge"
	if e.Dashed {
		class += " dashed"
	}
	way := fmt.Sprintf("M%.1f %.1fQ%.1f %.1f %.1f %.1f", start.x, start.y, bend.x, bend.y, end.x, end.y)
	fmt.Fprintf(b, "<path class=\"%s\" style=\"%s\" marker-end=\"url(#arrow)\" d=\"%s\"><title>%s</title></path>\n",
		class, colour(g.Nodes[e.From].Group), way, escaped(fmt.Sprintf("%s -> %s: %s", g.Nodes[e.From].Label, g.Nodes[e.To].Label, e.Label)))
}

// colour is a group's, the same in each drawing.
func colour(group string) string {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(group)) // a hash does not fail
	return fmt.Sprintf("stroke: hsl(%d 60%% var(--line))", hash.Sum32()%24*15)
}

// escaped is a text as XML has it.
func escaped(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // into memory, which does not fail
	return b.String()
}
