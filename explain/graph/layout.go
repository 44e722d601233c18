package graph

import (
	"math"
	"slices"
)

// point is a place in a drawing, in pixels from its top left corner.
type point struct{ x, y float64 }

// box is where a node is drawn, by its centre.
type box struct {
	point
	width, height float64
}

// drawing is where the nodes of a graph are, and how large it all is.
type drawing struct {
	boxes         []box
	width, height float64
	// centre is what edges bend towards in a circle.
	centre  point
	columns bool
}

const (
	letter    = 7.3 // the width of a letter, on average
	boxHeight = 26.0
	gap       = 14.0  // between two boxes of a column
	margin    = 24.0  // around the drawing
	top       = 56.0  // above it, for the title
	between   = 260.0 // between two columns, for the labels of edges
)

// widthOf is how wide a text is drawn, about.
func widthOf(text string) float64 { return float64(len([]rune(text))) * letter }

func (g *Graph) layout() drawing {
	if slices.ContainsFunc(g.Nodes, func(n Node) bool { return n.Column > 0 }) {
		return g.inColumns()
	}
	return g.inCircle()
}

// inColumns draws each column's nodes one below the other, in their order.
func (g *Graph) inColumns() drawing {
	d := drawing{boxes: make([]box, len(g.Nodes)), columns: true}
	last := 0
	for _, n := range g.Nodes {
		last = max(last, n.Column)
	}
	x := margin
	for column := range last + 1 {
		var width, y float64
		y = top
		for i, n := range g.Nodes {
			if n.Column != column {
				continue
			}
			d.boxes[i] = box{point{x, y + boxHeight/2}, widthOf(n.Label) + 20, boxHeight}
			width, y = max(width, d.boxes[i].width), y+boxHeight+gap
		}
		if width == 0 {
			continue
		}
		for i, n := range g.Nodes {
			if n.Column == column {
				d.boxes[i].x += width / 2
			}
		}
		d.width, d.height = x+width+margin, max(d.height, y+margin)
		x += width + between
	}
	for column := range last + 1 {
		g.middle(&d, column)
	}
	if slices.ContainsFunc(g.Edges, func(e Edge) bool {
		return e.From != e.To && g.Nodes[e.From].Column == last && g.Nodes[e.To].Column == last
	}) {
		d.width += between / 2 // such edges go around at the right
	}
	return d
}

// middle moves a column down, so that its middle is the drawing's.
func (g *Graph) middle(d *drawing, column int) {
	bottom := 0.0
	for i, n := range g.Nodes {
		if n.Column == column {
			bottom = max(bottom, d.boxes[i].y+boxHeight/2+gap+margin)
		}
	}
	for i, n := range g.Nodes {
		if n.Column == column {
			d.boxes[i].y += (d.height - bottom) / 2
		}
	}
}

// inCircle draws the nodes around an ellipse, those of a group beside each other.
func (g *Graph) inCircle() drawing {
	d := drawing{boxes: make([]box, len(g.Nodes))}
	order := make([]int, len(g.Nodes))
	widest := 0.0
	for i, n := range g.Nodes {
		order[i] = i
		widest = max(widest, widthOf(n.Label)+20)
	}
	first := map[string]int{} // groups in the order of their first nodes
	for i, n := range g.Nodes {
		if _, has := first[n.Group]; !has {
			first[n.Group] = i
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return first[g.Nodes[a].Group] - first[g.Nodes[b].Group] })
	// Down the right side and up the left, at the same distance below each other, so that no boxes overlap.
	right := (len(order) + 1) / 2
	down := float64(right-1) * (boxHeight + gap) / 2
	across := max(80, down/2)
	d.centre = point{margin + widest + gap + across, top + boxHeight + down}
	d.width, d.height = 2*d.centre.x, d.centre.y+down+boxHeight+margin
	for place, i := range order {
		share := 0.0 // from -1 at the top to 1 at the bottom
		if right > 1 {
			share = float64(2*place)/float64(right-1) - 1
		}
		side := 1.0
		if place >= right {
			side, share = -1, 1-float64(2*(place-right))/float64(max(right-1, 1))
		}
		out := widest/2 + gap + across*math.Sqrt(1-share*share)
		d.boxes[i] = box{point{d.centre.x + side*out, d.centre.y + down*share}, widthOf(g.Nodes[i].Label) + 20, boxHeight}
	}
	return d
}

// edge is the way of an edge: from the border of a box to that of another, bent by a point between them.
func (d drawing) edge(from, to int) (start, bend, end point) {
	a, b := d.boxes[from], d.boxes[to]
	if from == to {
		return point{a.x - 8, a.y - a.height/2}, point{a.x, a.y - 2.2*a.height}, point{a.x + 8, a.y - a.height/2}
	}
	bend = point{(a.x + b.x) / 2, (a.y + b.y) / 2}
	if !d.columns {
		bend = point{(bend.x + d.centre.x) / 2, (bend.y + d.centre.y) / 2}
		// The two ways between a pair are drawn apart.
		length := math.Hypot(b.x-a.x, b.y-a.y)
		bend.x, bend.y = bend.x-12*(b.y-a.y)/length, bend.y+12*(b.x-a.x)/length
		return a.border(bend), bend, b.border(bend)
	}
	if math.Abs(a.x-b.x) < (a.width+b.width)/2 { // in one column
		right := max(a.x+a.width/2, b.x+b.width/2)
		return point{a.x + a.width/2, a.y}, point{right + between/2, bend.y}, point{b.x + b.width/2, b.y}
	}
	if a.x < b.x {
		return point{a.x + a.width/2, a.y}, bend, point{b.x - b.width/2, b.y}
	}
	return point{a.x - a.width/2, a.y}, bend, point{b.x + b.width/2, b.y}
}

// border is where a line from a box's centre to a point leaves the box.
func (b box) border(to point) point {
	dx, dy := to.x-b.x, to.y-b.y
	share := 1.0
	for _, one := range []struct{ half, way float64 }{{b.width / 2, math.Abs(dx)}, {b.height / 2, math.Abs(dy)}} {
		if one.way > 0 {
			share = min(share, one.half/one.way)
		}
	}
	return point{b.x + dx*share, b.y + dy*share}
}
