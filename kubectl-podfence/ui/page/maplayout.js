// Where the nodes of a map are drawn: in layers, from those who send to those who get, as long as that can be read; in
// a grid by name beyond that.
import { graphlib, layout as dagre } from './vendor/dagre.esm.js'

const letter = 7.2, height = 46, gap = 16
// Above these, layers become a tangle, and take long to find.
const mostNodes = 90, mostEdges = 350

const width = node => Math.max(96, Math.min(260, node.label.length * letter + 34))

// layout gives nodes {x, y, width, height} (centre) and edges {points}. Nodes have id, label and parent, the id of the
// box around them; boxes have box: true.
export function layout(nodes, edges) {
  return nodes.length <= mostNodes && edges.length <= mostEdges ? layers(nodes, edges) : grid(nodes, edges)
}

function layers(nodes, edges) {
  const g = new graphlib.Graph({ compound: true, multigraph: true })
  g.setGraph({ rankdir: 'LR', nodesep: 18, ranksep: 110, edgesep: 12, marginx: 24, marginy: 24 })
  g.setDefaultEdgeLabel(() => ({}))
  for (const n of nodes) g.setNode(n.id, n.box ? {} : { width: width(n), height })
  for (const n of nodes) if (n.parent) g.setParent(n.id, n.parent)
  edges.forEach((e, i) => { if (e.from !== e.to) g.setEdge(e.from, e.to, {}, String(i)) })
  dagre(g)
  const places = new Map(nodes.map(n => {
    const at = g.node(n.id)
    // A box needs room for its title.
    return [n.id, n.box ? { x: at.x, y: at.y - 10, width: at.width, height: at.height + 20 } : { x: at.x, y: at.y, width: width(n), height }]
  }))
  const points = edges.map((e, i) => e.from === e.to ? null : g.edge(e.from, e.to, String(i))?.points)
  return { places, points, dense: false, ...extent(places) }
}

function grid(nodes, edges) {
  const places = new Map()
  const inside = new Map()
  for (const n of nodes) if (n.parent) inside.set(n.parent, [...inside.get(n.parent) ?? [], n])
  const top = nodes.filter(n => !n.parent)
  const sizes = top.map(n => n.box ? { width: 280, height: 40 + (inside.get(n.id)?.length ?? 0) * (height + gap) + gap } : { width: width(n), height })
  const columns = Math.max(1, Math.ceil(Math.sqrt(top.length * 0.5)))
  const widths = Array.from({ length: columns }, (_, c) => Math.max(...top.map((_, i) => i % columns === c ? sizes[i].width : 0)))
  let y = gap
  for (let row = 0; row * columns < top.length; row++) {
    const of = top.slice(row * columns, (row + 1) * columns), tall = Math.max(...of.map((_, c) => sizes[row * columns + c].height))
    let x = gap
    of.forEach((n, c) => {
      const size = sizes[row * columns + c]
      places.set(n.id, { x: x + widths[c] / 2, y: y + size.height / 2, ...size })
      ;(inside.get(n.id) ?? []).forEach((child, k) => {
        places.set(child.id, { x: x + widths[c] / 2, y: y + 40 + k * (height + gap) + height / 2, width: Math.min(width(child), 250), height })
      })
      x += widths[c] + gap * 2
    })
    y += tall + gap * 2
  }
  return { places, points: edges.map(() => null), dense: true, ...extent(places) }
}

function extent(places) {
  let right = 200, bottom = 120, left = 0, top = 0
  for (const p of places.values()) {
    right = Math.max(right, p.x + p.width / 2)
    bottom = Math.max(bottom, p.y + p.height / 2)
    left = Math.min(left, p.x - p.width / 2)
    top = Math.min(top, p.y - p.height / 2)
  }
  return { box: { x: left - 30, y: top - 40, width: right - left + 60, height: bottom - top + 80 } }
}

// path is the way of an edge: through its points, or straight between two places.
export function path(points, from, to, bend = 0) {
  if (points?.length > 1) {
    let d = `M${point(points[0])}`
    for (let i = 1; i < points.length - 1; i++) {
      const next = points[i + 1], at = points[i]
      const middle = i === points.length - 2 ? next : { x: (at.x + next.x) / 2, y: (at.y + next.y) / 2 }
      d += `Q${point(at)} ${point(middle)}`
    }
    return points.length === 2 ? d + `L${point(points[1])}` : d
  }
  if (from === to) return `M${from.x - 14} ${from.y - from.height / 2}c-14 -34 42 -34 28 0`
  const middle = { x: (from.x + to.x) / 2 - (to.y - from.y) * (0.12 + bend), y: (from.y + to.y) / 2 + (to.x - from.x) * (0.12 + bend) }
  return `M${point(border(from, middle))}Q${point(middle)} ${point(border(to, middle))}`
}

const point = p => `${Math.round(p.x * 10) / 10} ${Math.round(p.y * 10) / 10}`

// border is where a line from a box's middle to a point leaves the box.
function border(box, to) {
  const dx = to.x - box.x, dy = to.y - box.y
  const share = Math.min(1, Math.abs(dx) > 0 ? box.width / 2 / Math.abs(dx) : 1, Math.abs(dy) > 0 ? box.height / 2 / Math.abs(dy) : 1)
  return { x: box.x + dx * share, y: box.y + dy * share }
}
