// The page: which view is shown, and what all of them have in common.
import { get, post } from './api.js'
import { byId, el } from './dom.js'
import { route, go } from './route.js'
import { plural } from './words.js'
import * as map from './map.js'
import * as matrix from './matrix.js'
import * as flows from './flows.js'
import * as whatif from './whatif.js'
import * as change from './change.js'
import { closePanel } from './panel.js'

const views = { map, matrix, flows, whatif }
let shown // the view that is shown
let state
let turn = 0 // of showing: what an earlier one still loads is not shown any more

const page = {
  // state is what api/state said last.
  get state() { return state },
  status(text) { byId('status').textContent = text },
  fail,
}

function fail(error) {
  if (error.name === 'AbortError') return
  const box = byId('failure')
  box.textContent = error.message
  box.hidden = false
}

// show shows what the address bar says. A view asks, after each answer that it has waited for, whether it is still the one
// that is wanted.
async function show() {
  const { view, params } = route()
  const mine = ++turn
  document.body.dataset.ready = 'false'
  byId('failure').hidden = true
  const next = views[view] ?? map
  if (shown !== next) {
    shown?.hide?.()
    closePanel()
    byId('status').textContent = ''
    byId('view').replaceChildren()
    shown = next
  }
  for (const link of document.querySelectorAll('[data-nav]')) {
    if (views[link.dataset.nav] === next) link.setAttribute('aria-current', 'page')
    else link.removeAttribute('aria-current')
  }
  byId('view').dataset.view = view
  document.title = `podfence: ${document.querySelector('[aria-current=page]')?.textContent ?? ''}`
  try {
    await next.show(byId('view'), params, page, () => mine === turn)
  } catch (error) {
    fail(error)
  }
  if (mine !== turn) return
  document.body.dataset.generation = state?.generation ?? 0
  document.body.dataset.ready = 'true'
}

function tell(next) {
  state = next
  const at = new Date(state.read).toLocaleTimeString()
  byId('source').textContent = `${state.source}: ${plural(state.namespaces, 'namespace')}, ${plural(state.pods, 'pod')}, ` +
    `${state.policies + state.clusterPolicies} policies; read at ${at}`
  byId('source').title = state.notes.map(n => n.message).join('\n')
  if (state.notes.length) byId('status').textContent = state.notes.map(n => n.message).join(' ')
}

async function again() {
  byId('again').disabled = true
  try {
    const before = state?.generation
    tell(await post('read'))
    if (state.generation !== before) {
      await change.ask().catch(fail)
      if (!shown?.goesOn) await show()
    }
  } catch (error) {
    fail(error)
  }
  byId('again').disabled = false
}

function banner() {
  const box = byId('banner'), n = change.count()
  box.hidden = n === 0
  if (!n) return box.replaceChildren()
  box.replaceChildren(
    el('span', {}, `What if: ${n === 1 ? '1 policy' : n + ' policies'} changed. ${change.summary()} Nothing is written to the cluster. `),
    el('button', { type: 'button', onclick: () => { change.clear(); show() } }, 'Clear'))
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches('input, textarea, select')) return
  switch (event.key) {
    case '/': {
      const box = document.querySelector('[data-search]')
      if (box) { event.preventDefault(); box.focus() }
      break
    }
    case 'r': again(); break
    case '?': byId('keys').showModal(); break
    case 'Escape': closePanel(); break
  }
}

async function refresh() {
  const seconds = state?.refreshSeconds
  if (seconds) {
    setTimeout(async () => {
      // What somebody is writing, or looking at in another tab, is left alone.
      if (!document.hidden && !document.activeElement?.matches('input, textarea, select')) await again()
      refresh()
    }, seconds * 1000)
  }
}

byId('again').addEventListener('click', again)
byId('help').addEventListener('click', () => byId('keys').showModal())
addEventListener('keydown', keys)
addEventListener('hashchange', show)
change.onChange(banner)
document.querySelector('.skip').addEventListener('click', event => { event.preventDefault(); byId('view').focus() })

try {
  tell(await get('state'))
  if (!location.hash) go('map')
  else await show()
  refresh()
} catch (error) {
  fail(error)
  document.body.dataset.ready = 'true'
}
