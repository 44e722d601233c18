// A map as SVG, which can be moved and zoomed.
import { el, svg } from './dom.js'
import { layout, path } from './maplayout.js'
import { isolation } from './words.js'

// draw draws nodes and edges. act has select(node), toggle(namespace), pick(edge).
export function draw(nodes, edges, { selected, act, view }) {
  const placed = layout(nodes, edges)
  const shown = placed.dense && edges.length > 200 ? edges.filter(e => selected && (e.from === selected || e.to === selected)) : edges
  const lines = svg('g', { class: 'edges' })
  const root = svg('svg', { class: 'map', role: 'group', 'aria-label': 'Who may talk to whom. Tab goes from one to the next.', preserveAspectRatio: 'xMidYMid meet' }, arrows(), boxes(), lines, leaves())
  const labelled = shown.length <= 80
  shown.forEach(e => lines.append(edge(e)))

  function boxes() {
    return svg('g', {}, nodes.filter(n => n.box).map(n => {
      const p = placed.places.get(n.id)
      return svg('g', { class: 'box' + (n.id === selected ? ' selected' : '') },
        svg('rect', { ...button(n), 'aria-expanded': 'true', x: p.x - p.width / 2, y: p.y - p.height / 2, width: p.width, height: p.height, rx: 10 }),
        svg('text', { 'aria-hidden': 'true', x: p.x - p.width / 2 + 12, y: p.y - p.height / 2 + 20 }, `− ${n.name}`))
    }))
  }

  function leaves() {
    return svg('g', {}, nodes.filter(n => !n.box).map(n => {
      const p = placed.places.get(n.id), left = p.x - p.width / 2, top = p.y - p.height / 2
      const pods = n.kind !== 'Network' && n.kind !== 'Domain' && n.kind !== 'Nodes'
      const marks = pods && `in ${isolation(n.ingressIsolated, n.pods).mark} out ${isolation(n.egressIsolated, n.pods).mark}`
      return svg('g', { class: `node ${n.kind}${n.id === selected ? ' selected' : ''}${pods && !n.ingressIsolated && n.pods ? ' unfenced' : ''}` },
        svg('rect', { ...button(n), 'aria-expanded': n.kind === 'Namespace' ? 'false' : undefined, x: left, y: top, width: p.width, height: p.height, rx: pods ? 6 : 22 }),
        svg('text', { 'aria-hidden': 'true', x: p.x, y: p.y + (pods ? -3 : 4), 'text-anchor': 'middle', class: 'name' }, cut(n.kind === 'Namespace' ? '+ ' + n.label : n.label, p.width)),
        marks && svg('text', { 'aria-hidden': 'true', x: p.x, y: p.y + 14, 'text-anchor': 'middle', class: 'marks' }, marks))
    }))
  }

  // button is what makes a shape one. The text beside it is for eyes alone: its label says all of it.
  function button(n) {
    return {
      tabindex: '0', role: 'button', 'data-id': n.id, 'aria-label': n.said,
      onclick: event => { event.stopPropagation(); n.kind === 'Namespace' ? act.toggle(n) : act.select(n) },
      onkeydown: event => {
        if (event.key !== 'Enter' && event.key !== ' ') return
        event.preventDefault()
        n.kind === 'Namespace' && event.key === 'Enter' ? act.toggle(n) : act.select(n)
      },
    }
  }

  function edge(e) {
    const from = placed.places.get(e.from), to = placed.places.get(e.to)
    const d = path(placed.points[edges.indexOf(e)], from, to, e.bend)
    const line = svg('path', { d, class: 'line', 'marker-end': `url(#arrow-${e.how})` })
    const text = e.text && (labelled || e.flow) && svg('text', { class: 'ports', 'text-anchor': 'middle' }, svg('tspan', {}, e.text))
    const g = svg('g', { class: `edge ${e.how}${e.partly ? ' partly' : ''}`, 'data-from': e.from, 'data-to': e.to, 'data-how': e.how, 'data-text': e.text, onclick: event => { event.stopPropagation(); act.pick(e) } },
      svg('path', { d, class: 'near' }), line, text, svg('title', {}, e.said))
    if (text) {
      const at = middle(d)
      text.setAttribute('x', at.x)
      text.setAttribute('y', at.y - 4)
    }
    return g
  }

  zoom(root, placed.box, view)
  return root
}

// middle is the middle of a path.
function middle(d) {
  const p = svg('path', { d })
  return p.getPointAtLength(p.getTotalLength() / 2)
}

const cut = (text, width) => text.length * 7 > width - 12 ? text.slice(0, Math.floor((width - 20) / 7)) + '…' : text

function arrows() {
  return svg('defs', {}, ['allowed', 'unfenced', 'opened', 'closed', 'unclear', 'flow-allowed', 'flow-denied', 'flow-would-deny', 'flow-would-allow'].map(how =>
    svg('marker', { id: 'arrow-' + how, class: 'arrow ' + how, viewBox: '0 0 8 8', refX: '7', refY: '4', markerWidth: '7', markerHeight: '7', orient: 'auto-start-reverse', markerUnits: 'userSpaceOnUse' },
      svg('path', { d: 'M0 0 8 4 0 8z' }))))
}

// zoom lets a drawing be moved and zoomed. view keeps what is seen while it is drawn anew.
function zoom(root, whole, view) {
  const set = box => {
    view.box = box
    root.setAttribute('viewBox', `${box.x} ${box.y} ${box.width} ${box.height}`)
  }
  const fit = () => {
    // Small maps are not blown up.
    const width = Math.max(whole.width, 700), tall = Math.max(whole.height, 420)
    set({ x: whole.x - (width - whole.width) / 2, y: whole.y - (tall - whole.height) / 2, width, height: tall })
    view.fitted = true
  }
  const scale = (factor, at = { x: view.box.x + view.box.width / 2, y: view.box.y + view.box.height / 2 }) => {
    const b = view.box
    view.fitted = false
    set({ x: at.x - (at.x - b.x) * factor, y: at.y - (at.y - b.y) * factor, width: b.width * factor, height: b.height * factor })
  }
  const move = (dx, dy) => {
    view.fitted = false
    set({ ...view.box, x: view.box.x + dx, y: view.box.y + dy })
  }
  const at = event => new DOMPoint(event.clientX, event.clientY).matrixTransform(root.getScreenCTM().inverse())
  root.addEventListener('wheel', event => {
    event.preventDefault()
    scale(event.deltaY > 0 ? 1.15 : 1 / 1.15, at(event))
  }, { passive: false })
  let from
  root.addEventListener('pointerdown', event => {
    if (event.target.closest('.node, .box, .edge')) return
    from = at(event)
    root.setPointerCapture(event.pointerId)
  })
  root.addEventListener('pointermove', event => {
    if (!from) return
    const now = at(event)
    move(from.x - now.x, from.y - now.y)
  })
  root.addEventListener('pointerup', () => { from = undefined })
  root.addEventListener('keydown', event => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key]
    if (step) move(step[0] * view.box.width / 12, step[1] * view.box.height / 12)
    else if (event.key === '+' || event.key === '=') scale(1 / 1.2)
    else if (event.key === '-') scale(1.2)
    else if (event.key === '0') fit()
    else return
    event.preventDefault()
  })
  view.scale = scale
  view.fit = fit
  if (!view.box || view.fitted) fit()
  else set(view.box)
}

// zoomButtons are the same for a mouse.
export function zoomButtons(view) {
  return el('div', { class: 'zoom', role: 'group', 'aria-label': 'Zoom' },
    el('button', { type: 'button', 'aria-label': 'Zoom in', onclick: () => view.scale(1 / 1.3) }, '+'),
    el('button', { type: 'button', 'aria-label': 'Zoom out', onclick: () => view.scale(1.3) }, '−'),
    el('button', { type: 'button', 'aria-label': 'Show all of the map', onclick: () => view.fit() }, '⤢'))
}
