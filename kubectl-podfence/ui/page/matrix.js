// The matrix: who reaches whom, workload by workload. It reads as kubectl podfence reach --matrix.
import { get } from './api.js'
import { el } from './dom.js'
import { go } from './route.js'
import { contains, openText, openingText, partyId as name } from './words.js'
import { explain } from './explanation.js'
import * as change from './change.js'

// most is how many workloads a table can have that somebody still reads.
const most = 200

export async function show(main, params, page, still) {
  const namespace = params.get('namespace') ?? ''
  const { nodes } = await get('map')
  if (!still()) return
  const select = el('select', { id: 'matrix-namespace', 'data-search': true, onchange: () => go('matrix', { namespace: select.value }) },
    el('option', { value: '' }, 'all'), nodes.filter(n => n.kind === 'Namespace').map(n => el('option', { value: n.name }, n.name)))
  select.value = namespace
  const head = el('div', { class: 'bar' }, el('span', { class: 'field' }, el('label', { for: 'matrix-namespace' }, 'Namespace '), select),
    el('span', { class: 'quiet' }, 'Rows are where packets come from. – closed, ~ for some of the pods only, ″ as for the network around it.'))
  // Who is in a cell, and where the table is, stays so when the objects are read again.
  const old = main.querySelector('.tall'), at = document.activeElement?.closest?.('.grid button')?.dataset
  const scrolled = old && { left: old.scrollLeft, top: old.scrollTop }
  main.replaceChildren(el('section', { class: 'matrix' }, el('h2', { class: 'hidden' }, 'Matrix'), head))
  const workloads = nodes.reduce((sum, n) => sum + (n.workloads ?? 0), 0)
  if (!namespace && workloads > most) {
    head.after(el('p', { class: 'pad' }, `There are ${workloads} workloads, which are too many for one table: choose a namespace.`))
    return
  }
  let matrix
  try {
    matrix = await get('matrix', { namespace })
  } catch (error) {
    head.after(el('p', { class: 'pad', role: 'alert' }, error.message))
    return
  }
  if (!still()) return
  const names = matrix.parties.map(name)
  const cells = new Map()
  for (const cell of matrix.cells) {
    const key = cell.from + '\n' + cell.to
    if (!cells.has(key)) cells.set(key, [])
    cells.get(key).push(cell)
  }
  const changed = new Map(change.changes().map(c => [c.from + '\n' + c.to, c]))
  const outside = p => p.kind === 'Network' || p.kind === 'Domain'
  const rows = matrix.parties.map((from, i) => el('tr', {}, el('th', { scope: 'row' }, names[i]),
    matrix.parties.map((to, j) => {
      if (outside(from) && outside(to) || i === j && from.size < 2) return el('td', { class: 'none' }, el('span', { 'aria-hidden': 'true' }, '·'))
      const key = names[i] + '\n' + names[j]
      return el('td', {}, button(names[i], names[j], cells.get(key), changed.get(key), around(matrix.parties, cells, from, to), page))
    })))
  const grid = el('table', { class: 'grid' },
    el('caption', {}, `Who reaches whom${namespace ? ' in namespace ' + namespace : ''}`),
    el('thead', {}, el('tr', {}, el('th', { scope: 'col' }, 'from \\ to'), names.map(n => el('th', { scope: 'col' }, el('span', {}, n))))),
    el('tbody', {}, rows))
  grid.addEventListener('keydown', move)
  const first = grid.querySelector('td button')
  if (first) first.tabIndex = 0
  const table = el('div', { class: 'scroll tall' }, grid)
  head.after(table, ...(matrix.notes ?? []).map(n => el('p', { class: 'quiet pad' }, n.message)))
  if (scrolled) table.scrollTo(scrolled)
  if (at) grid.querySelector(`button[data-from="${CSS.escape(at.from)}"][data-to="${CSS.escape(at.to)}"]`)?.focus()
}

// around reports whether a pair without a cell of its own is as another: with a network around one of the two that has
// a cell, or with the addresses of a domain name.
function around(parties, cells, from, to) {
  if (from.kind === 'Domain' || to.kind === 'Domain') return true
  const inner = from.kind === 'Network' ? from : to
  if (inner.kind !== 'Network') return false
  const [address, bits] = inner.network.split('/')
  return parties.some(p => p.kind === 'Network' && Number(p.network.split('/')[1]) < Number(bits) && contains(p.network, address) &&
    cells.has(inner === from ? name(p) + '\n' + name(to) : name(from) + '\n' + name(p)))
}

// short is a cell's text: numbers without a protocol are TCP.
function short(list, around) {
  if (!list) return around ? '″' : '–'
  return list.map(o => {
    let text = openText(o.open ?? [])
    if (text === 'all ports') text = 'all'
    text = text.replace(/^TCP /, '').replace('ICMP and other protocols', 'other')
    if (o.unknown?.length) text = text ? text + ' ?' : '?'
    if (!text) text = '–'
    return (o.partly ? '~' : '') + (o.family ? o.family + ' ' : '') + text
  }).join(' ')
}

function button(from, to, list, changed, around, page) {
  const text = short(list, around)
  const said = list ? list.map(openingText).join('; ') : text === '″' ? 'as for the network around it' : 'closed'
  return el('button', {
    type: 'button', tabindex: '-1', 'data-from': from, 'data-to': to, class: [text === '–' ? 'closed' : text === '″' ? 'around' : 'open', changed && changed.how].filter(Boolean).join(' '),
    'aria-label': `${from} to ${to}: ${said}${changed ? `; would be ${changed.how}: ${openingText(changed.opening)}` : ''}`, title: said,
    onclick: () => explain(from, to, undefined, page),
  }, text, changed && el('b', { 'aria-hidden': 'true' }, changed.how === 'opened' ? ' +' : changed.how === 'closed' ? ' −' : ' ?'))
}

// move goes from cell to cell by arrows.
function move(event) {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key]
  const cell = event.target.closest('td')
  if (!step || !cell) return
  event.preventDefault()
  const table = event.currentTarget
  for (let row = cell.parentElement.rowIndex, column = cell.cellIndex; ;) {
    row += step[0]
    column += step[1]
    const next = table.rows[row]?.cells[column]
    if (!next || next.tagName !== 'TD') return
    const button = next.querySelector('button')
    if (button) {
      event.target.tabIndex = -1
      button.tabIndex = 0
      button.focus()
      return
    }
  }
}
