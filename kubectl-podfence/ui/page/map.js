// The map: namespaces, the workloads of those that are open, and what is outside, with what policies allow between
// them and what has flowed.
import { get } from './api.js'
import { el, table } from './dom.js'
import { go, replace } from './route.js'
import { isolation, openingText, partyId, plural } from './words.js'
import { draw, zoomButtons } from './mapdraw.js'
import { counter } from './mapflows.js'
import { openPanel } from './panel.js'
import { explain } from './explanation.js'
import * as change from './change.js'

const signs = { denied: '✕', allowed: '✓', 'would-deny': '?', 'would-allow': '+' }
const view = {} // what is seen of the drawing
let live, last, typing

export function hide() {
  live?.stop()
  live = undefined
  clearTimeout(typing)
  last = undefined
}

export async function show(main, params, page, still) {
  const values = {
    open: params.getAll('open'), port: params.get('port') ?? '', unfenced: params.get('unfenced') ?? '', q: params.get('q') ?? '',
    label: params.get('label') ?? '', show: params.get('show') ?? '', select: params.get('select') ?? '', live: params.get('live') ?? '',
  }
  if (!main.querySelector('.mapview')) frame(main)
  fields(main, values, page)
  const query = { open: values.open, port: values.port, unfenced: values.unfenced }
  let answer = await get('map', query)
  if (answer.tooMany && values.select) answer = { ...await get('map', { ...query, focus: values.select }), tooMany: answer.tooMany }
  if (!still()) return
  last = { answer, values, page, main, still }
  if (values.live && page.state.flows) live ??= counter(() => last && render(last))
  else {
    live?.stop()
    live = undefined
  }
  render(last)
  if (values.select) await details(last)
}

function frame(main) {
  const field = (id, label, input) => el('span', { class: 'field' }, el('label', { for: id }, label + ' '), input)
  main.replaceChildren(el('section', { class: 'mapview' }, el('h2', { class: 'hidden' }, 'Map'),
    el('div', { class: 'bar', role: 'search', 'aria-label': 'What the map shows' },
      field('map-q', 'Search', el('input', { id: 'map-q', type: 'search', size: '24', placeholder: 'name, or label key=value', 'data-search': true })),
      field('map-port', 'Port', el('input', { id: 'map-port', size: '9', placeholder: '5432/TCP' })),
      field('map-show', 'Show', el('select', { id: 'map-show' }, [['', 'all'], ['allowed', 'what policies allow'], ['flows', 'what has flowed'], ['denied', 'what was denied']].map(([v, t]) => el('option', { value: v }, t)))),
      el('label', { class: 'field' }, el('input', { id: 'map-unfenced', type: 'checkbox' }), ' what no policy is about'),
      el('label', { class: 'field' }, el('input', { id: 'map-live', type: 'checkbox' }), ' flows'),
      el('span', { id: 'map-count', class: 'quiet' })),
    el('div', { class: 'canvas' })))
}

function fields(main, values, page) {
  const at = id => main.querySelector('#' + id)
  const changed = (name, value) => go('map', { ...values, [name]: value })
  at('map-q').oninput = event => {
    clearTimeout(typing)
    typing = setTimeout(() => { replace('map', { ...last.values, q: event.target.value }); last.values.q = event.target.value; render(last) }, 150)
  }
  at('map-port').onchange = event => changed('port', event.target.value.trim())
  // Flows are seen by whoever watches them.
  at('map-show').onchange = ({ target }) => go('map', { ...values, show: target.value, live: ['flows', 'denied'].includes(target.value) && page.state.flows ? '1' : values.live })
  at('map-unfenced').onchange = event => changed('unfenced', event.target.checked ? '1' : '')
  at('map-live').onchange = event => changed('live', event.target.checked ? '1' : '')
  if (document.activeElement !== at('map-q')) at('map-q').value = values.q
  at('map-port').value = values.port
  at('map-show').value = values.show
  at('map-unfenced').checked = values.unfenced === '1'
  at('map-live').checked = values.live === '1' && page.state.flows
  at('map-live').disabled = !page.state.flows
  at('map-live').parentElement.title = page.state.flowsReason ?? ''
}

// wanted are the nodes that a search finds: by name, or by a label of the namespace.
function wanted(nodes, q) {
  if (!q) return nodes
  const [key, value] = q.split('=')
  const hit = n => n.id.includes(q) || value !== undefined && n.labels?.[key.trim()] === value.trim()
  const spaces = new Set(nodes.filter(n => n.kind === 'Namespace' && hit(n)).map(n => n.namespace))
  for (const n of nodes) if (n.namespace && hit(n)) spaces.add(n.namespace)
  return nodes.filter(n => n.kind === 'Namespace' ? spaces.has(n.namespace) : n.namespace ? hit(n) || nodes.some(s => s.kind === 'Namespace' && s.namespace === n.namespace && hit(s)) : hit(n) || spaces.size > 0)
}

function said(n) {
  const parts = [n.kind === 'Namespace' ? `namespace ${n.name}` : n.id]
  if (n.kind === 'Namespace') parts.push(plural(n.workloads ?? 0, 'workload'))
  if (n.kind !== 'Network' && n.kind !== 'Domain') parts.push(plural(n.pods, n.kind === 'Nodes' ? 'node' : 'pod'))
  if (n.pods && n.kind !== 'Nodes' && n.kind !== 'Domain') {
    parts.push(`ingress ${isolation(n.ingressIsolated, n.pods).text}`, `egress ${isolation(n.egressIsolated, n.pods).text}`)
  }
  if (n.staged) parts.push(`${n.staged} staged`)
  return parts.join(', ')
}

function render({ answer, values, page, main }) {
  const open = new Set(values.open)
  const nodes = wanted(answer.nodes, values.q).map(n => ({
    ...n, box: n.kind === 'Namespace' && open.has(n.name) && answer.nodes.some(w => w.kind !== 'Namespace' && w.namespace === n.name),
    parent: n.kind !== 'Namespace' && n.namespace ? 'ns/' + n.namespace : undefined,
    label: n.kind === 'Namespace' ? n.name : n.namespace ? n.id.replace(n.namespace + '/', '') : n.id.startsWith('outside') ? `other ${n.id.includes('IPv6') ? 'IPv6' : 'IPv4'} addresses` : n.id, said: said(n),
  }))
  const ids = new Set(nodes.map(n => n.id))
  let edges = []
  if (values.show !== 'flows' && values.show !== 'denied') {
    edges = answer.edges.map(e => ({ ...e, how: e.unfenced ? 'unfenced' : 'allowed', text: e.ports, said: `${e.from} to ${e.to}: ${e.ports || 'allowed'}${e.partly ? ', for some of the pods' : ''}` }))
    edges = withChange(edges, ids, open)
  }
  if (live && values.show !== 'allowed') edges.push(...flowEdges(nodes, values))
  edges = edges.filter(e => ids.has(e.from) && ids.has(e.to))
  // Who has no edge, and is outside, is no help.
  const ends = new Set(edges.flatMap(e => [e.from, e.to]))
  const drawn = nodes.filter(n => n.namespace || ends.has(n.id) || n.id === values.select)
  const focus = document.activeElement?.closest?.('[data-id]')?.dataset.id
  const canvas = main.querySelector('.canvas')
  const act = {
    toggle: n => go('map', { ...values, open: open.has(n.name) ? values.open.filter(o => o !== n.name) : [...values.open, n.name], select: n.id }),
    select: n => go('map', { ...values, select: n.id }),
    pick: e => pick(e, page),
  }
  canvas.replaceChildren(draw(drawn, edges, { selected: values.select, act, view }), zoomButtons(view))
  if (focus) canvas.querySelector(`[data-id="${CSS.escape(focus)}"]`)?.focus()
  main.querySelector('#map-count').textContent = [
    `${plural(drawn.filter(n => n.kind === 'Namespace').length, 'namespace')}, ${edges.length} connections`,
    answer.unfenced && !values.unfenced && `${answer.unfenced} more are open, as no policy is about them`,
    answer.tooMany && `${answer.tooMany} are too many to draw: select one to see its own, or search`,
  ].filter(Boolean).join('; ')
}

// withChange adds what a change that is thought of opens, and marks what it closes.
function withChange(edges, ids, open) {
  const place = (id, namespace) => namespace && !open.has(namespace) ? 'ns/' + namespace : id
  const out = [...edges]
  for (const c of change.changes()) {
    const from = place(c.from, c.namespaces[0]), to = place(c.to, c.namespaces[1])
    if (!ids.has(from) || !ids.has(to) || out.some(e => e.from === from && e.to === to && e.how === c.how)) continue
    out.push({ from, to, how: c.how, bend: 0.12, text: `${c.how === 'opened' ? '+' : c.how === 'closed' ? '−' : '?'} ${openingText(c.opening)}`, said: `${from} to ${to}: would be ${c.how}: ${openingText(c.opening)}` })
  }
  return out
}

function flowEdges(nodes, values) {
  return live.edges(nodes, namespace => namespace && 'ns/' + namespace)
    .filter(f => values.show !== 'denied' || f.verdict === 'denied' || f.verdict === 'would-deny')
    .map(f => ({ from: f.from, to: f.to, how: 'flow-' + f.verdict, flow: true, bend: 0.06, text: `${signs[f.verdict]} ${f.count}`, said: `${f.from} to ${f.to}: ${f.count} ${f.verdict}` }))
}

// pick shows what is between two ends.
async function pick(edge, page) {
  const single = id => !id.startsWith('ns/')
  if (single(edge.from) && single(edge.to)) return explain(edge.from, edge.to, undefined, page)
  try {
    const subject = edge.from.startsWith('ns/') ? edge.from : edge.to
    const reach = await get('reach', { target: subject })
    const of = (party, id) => id.startsWith('ns/') ? party.namespace === id.slice(3) : partyId(party) === id
    const rows = [...reach.ingress, ...reach.egress].filter(r => of(r.from, edge.from) && of(r.to, edge.to))
    openPanel(`${edge.from} → ${edge.to}`, reachTable('What is open', dedupe(rows), page))
  } catch (error) {
    page.fail(error)
  }
}

const dedupe = rows => [...new Map(rows.map(r => [JSON.stringify(r), r])).values()]

function reachTable(caption, rows, page) {
  if (!rows.length) return el('p', {}, `${caption}: nothing.`)
  return table(caption, ['From', 'To', 'Ports'], rows.slice(0, 500).map(r => el('tr', { 'data-from': partyId(r.from), 'data-to': partyId(r.to) },
    el('td', {}, partyId(r.from)), el('td', {}, partyId(r.to)),
    el('td', {}, el('button', { type: 'button', class: 'link', title: 'Why?', onclick: () => explain(partyId(r.from), partyId(r.to), undefined, page) }, openingText(r))))))
}

// details shows what is known of the node that is selected.
async function details({ answer, values, page, still }) {
  const node = answer.nodes.find(n => n.id === values.select)
  if (!node) return
  const facts = [['Pods', node.kind === 'Namespace' || node.namespace ? String(node.pods) : undefined], ['Workloads', node.workloads],
    ['Ingress', node.namespace && isolation(node.ingressIsolated, node.pods).text], ['Egress', node.namespace && isolation(node.egressIsolated, node.pods).text],
    ['Policies', node.kind === 'Namespace' ? `${node.policies ?? 0}${node.staged ? `, ${node.staged} of them staged` : ''}` : undefined],
    ['Labels', node.labels && Object.entries(node.labels).map(([k, v]) => `${k}=${v}`).join(', ')]].filter(([, v]) => v !== undefined && v !== '' && v !== false)
  const head = [el('dl', { class: 'facts' }, facts.map(([k, v]) => [el('dt', {}, k), el('dd', {}, String(v))])),
    el('p', { class: 'buttons' }, node.kind === 'Namespace' && el('button', { type: 'button', onclick: () => go('matrix', { namespace: node.name }) }, 'Matrix'),
      node.namespace && page.state.flows && el('button', { type: 'button', onclick: () => go('flows', { namespace: node.namespace }) }, 'Flows'))]
  openPanel(node.id, head, el('p', {}, 'Asking…'))
  if (node.kind === 'Network' || node.kind === 'Domain' || node.kind === 'Nodes') {
    const edges = answer.edges.filter(e => e.from === node.id || e.to === node.id)
    openPanel(node.id, head, edges.length ? table('Connections', ['From', 'To', 'Ports'], edges.map(e => el('tr', {}, el('td', {}, e.from), el('td', {}, e.to), el('td', {}, e.ports ?? '')))) : el('p', {}, 'Nothing on this map is connected to it.'))
    return
  }
  const reach = await get('reach', { target: node.id })
  if (!still()) return
  openPanel(node.id, head, reachTable('Who reaches it', reach.ingress, page), reachTable('What it reaches', reach.egress, page),
    (reach.notes ?? []).map(n => el('p', { class: 'quiet' }, n.message))).dataset.selected = node.id
}
