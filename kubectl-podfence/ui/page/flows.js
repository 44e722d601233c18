// Flows: what is denied and what passes, as it happens.
import { el } from './dom.js'
import { go } from './route.js'
import { endId } from './words.js'
import { watch } from './flowstream.js'
import { explain } from './explanation.js'

const most = 2000
const verdicts = { denied: 'Denied', allowed: 'Allowed', 'would-deny': 'Would be denied', 'would-allow': 'Would be allowed' }
const signs = { denied: '✕', allowed: '✓', 'would-deny': '?', 'would-allow': '+' }
let stream

// goesOn: the view does not depend on the objects that were read, and begins anew only if somebody goes there.
export const goesOn = true

export function hide() {
  stream?.stop()
  stream = undefined
}

export async function show(main, params, page) {
  hide()
  if (!page.state.flows) {
    main.replaceChildren(el('section', { class: 'pad' }, el('h2', {}, 'Flows'), el('p', {}, page.state.flowsReason)))
    return
  }
  let paused = false, dropped = 0
  const held = []
  const body = el('tbody', {})
  const count = el('p', { class: 'quiet' })
  const notes = el('ul', { class: 'notes', 'aria-label': 'What agents say' })
  const control = (name, label, input) => el('span', { class: 'field' }, el('label', { for: 'flow-' + name }, label + ' '), input)
  const fields = {
    namespace: el('input', { id: 'flow-namespace', size: '14', 'data-search': true }),
    verdict: el('select', { id: 'flow-verdict' }, el('option', { value: '' }, 'all'), Object.entries(verdicts).map(([v, text]) => el('option', { value: v }, text.toLowerCase()))),
    port: el('input', { id: 'flow-port', size: '6', inputmode: 'numeric' }),
    policy: el('input', { id: 'flow-policy', size: '16', placeholder: 'NAMESPACE/NAME' }),
  }
  for (const [name, input] of Object.entries(fields)) {
    input.value = params.get(name) ?? ''
    input.addEventListener('change', () => go('flows', Object.fromEntries(Object.entries(fields).map(([n, i]) => [n, i.value.trim()]))))
  }
  const pause = el('button', { type: 'button', id: 'pause', 'aria-pressed': 'false', onclick: () => {
    paused = !paused
    pause.setAttribute('aria-pressed', paused)
    pause.textContent = paused ? 'Go on' : 'Pause'
    if (!paused) held.splice(0).forEach(add)
    say()
  } }, 'Pause')
  const say = () => {
    count.textContent = `${body.rows.length} flows${dropped ? `, and ${dropped} older ones that are not kept` : ''}${paused ? `; paused, ${held.length} are waiting` : ''}`
  }
  const add = flow => {
    body.prepend(row(flow, page))
    while (body.rows.length > most) { body.lastElementChild.remove(); dropped++ }
  }
  main.replaceChildren(el('section', { class: 'flows' },
    el('h2', { class: 'hidden' }, 'Flows'),
    el('div', { class: 'bar', role: 'search', 'aria-label': 'Which flows' }, control('namespace', 'Namespace', fields.namespace), control('verdict', 'Verdict', fields.verdict),
      control('port', 'Port', fields.port), control('policy', 'Policy', fields.policy), pause, count),
    notes,
    el('div', { class: 'scroll tall', tabindex: '0', role: 'region', 'aria-label': 'Flows, the newest first' }, el('table', { class: 'flowtable' },
      el('caption', { class: 'hidden' }, 'Flows, the newest first'),
      el('thead', {}, el('tr', {}, ['Time', 'Verdict', 'From', 'To', 'Reason', ''].map(t => el('th', { scope: 'col' }, t || el('span', { class: 'hidden' }, 'Explain'))))), body))))
  say()
  const query = { namespace: params.get('namespace'), verdict: params.get('verdict'), port: params.get('port'), policy: params.get('policy') }
  stream = watch(query, {
    flow: flow => {
      if (paused) {
        held.push(flow)
        if (held.length > most) { held.shift(); dropped++ }
      } else add(flow)
      say()
    },
    note: text => {
      notes.append(el('li', {}, text))
      while (notes.children.length > 5) notes.firstElementChild.remove()
    },
  })
}

// place is an end as people read it.
function place(end, names) {
  const name = end.pod ? `${end.namespace}/${end.pod}` : end.node ? `node/${end.node}` : names?.length ? `${names.join(', ')} (${end.ip})` : end.ip
  return end.port && name ? `${name}:${end.port}` : name
}

function row(flow, page) {
  const why = flow.reason ? [flow.text || flow.reason, flow.nearestMiss && `nearest miss: ${flow.nearestMiss}`].filter(Boolean).join('; ')
    : (flow.policies ?? []).map(p => `${[p.namespace, p.name].filter(Boolean).join('/')}`).join(', ')
  const target = end => end.pod ? `${end.namespace}/${end.pod}` : end.node ? `node/${end.node}` : end.ip
  const asks = () => explain(target(flow.source), target(flow.destination),
    flow.destination.port && ['TCP', 'UDP', 'SCTP'].includes(flow.protocol) ? `${flow.destination.port}/${flow.protocol}` : undefined, page)
  return el('tr', { 'data-verdict': flow.verdict, 'data-from': endId(flow.source), 'data-to': endId(flow.destination), class: 'flow ' + flow.verdict },
    el('td', {}, el('time', { datetime: flow.time, title: `${flow.time}, seen by ${flow.node}` }, new Date(flow.time).toLocaleTimeString())),
    el('td', { class: 'verdict' }, `${signs[flow.verdict] ?? ''} ${verdicts[flow.verdict] ?? flow.verdict}${flow.event === 'ended' ? ' (ended)' : ''}`),
    el('td', {}, place(flow.source)), el('td', {}, place(flow.destination, flow.destinationNames), el('span', { class: 'quiet' }, ' ' + flow.protocol)),
    el('td', {}, why, flow.repeats ? ` (${flow.repeats} more)` : ''),
    el('td', {}, el('button', { type: 'button', class: 'link', onclick: asks }, 'Why?')))
}
