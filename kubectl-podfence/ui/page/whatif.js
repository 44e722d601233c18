// What if: policies that are edited or dropped, and what that would open and close.
import { get } from './api.js'
import { el, table } from './dom.js'
import { go, address } from './route.js'
import { openingText, partyId as name } from './words.js'
import * as change from './change.js'

const template = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: new-policy
  namespace: default
spec:
  podSelector: {}
  policyTypes:
  - Ingress
  ingress:
  - from:
    - podSelector: {}
`

let draft // what is written, with the policy that it is of

export async function show(main, params, page, still) {
  const { policies } = await get('policies')
  if (!still()) return
  const wanted = params.get('policy')
  const chosen = wanted === 'new' ? { kind: 'NetworkPolicy', name: 'new policy', isNew: true } : policies.find(p => change.keyOf(p) === wanted)
  const filter = el('input', { type: 'search', id: 'policy-filter', 'data-search': true, oninput: () => list.replaceChildren(...items()) })
  const items = () => [...change.all().filter(e => e.isNew), ...policies].filter(p => change.keyOf(p).includes(filter.value)).slice(0, 500).map(p => {
    const edit = change.edited(p), key = p.isNew ? 'new' : change.keyOf(p)
    return el('li', {}, el('a', { href: address('whatif', { policy: key }), 'aria-current': wanted === key && 'true', 'data-policy': change.keyOf(p) },
      [p.namespace, p.name].filter(Boolean).join('/'),
      edit && el('span', { class: 'badge' }, edit.yaml === null ? 'dropped' : 'changed'), p.staged && el('span', { class: 'badge' }, 'staged')))
  })
  const list = el('ul', { class: 'policies' }, items())
  main.replaceChildren(
    el('section', { class: 'whatif' },
      el('div', { class: 'side' }, el('h2', {}, 'Policies'), el('label', { for: 'policy-filter' }, 'Search '), filter,
        el('p', {}, el('a', { href: address('whatif', { policy: 'new' }), class: 'button' }, 'New policy')), list),
      el('div', { class: 'work' }, chosen ? await editor(chosen, page, main, params, still) : el('p', {}, 'Choose a policy, change it or drop it, and see what that opens and closes. Nothing is written to the cluster.'),
        result())))
}

async function editor(policy, page, main, params, still) {
  const edit = change.edited(policy)
  if (draft?.key !== change.keyOf(policy)) {
    const yaml = policy.isNew ? template : policy.yaml ?? (await get('policy', { kind: policy.kind, namespace: policy.namespace, name: policy.name })).yaml
    draft = { key: change.keyOf(policy), text: edit?.yaml ?? yaml, original: yaml }
  }
  const area = el('textarea', { id: 'yaml', spellcheck: 'false', rows: '22', oninput: () => { draft.text = area.value } })
  area.value = draft.text
  const act = make => async () => {
    try {
      make()
      await change.ask()
      page.status(change.summary())
      await show(main, params, page, still)
      document.getElementById('result')?.focus()
    } catch (error) {
      change.forget(policy)
      page.fail(error)
    }
  }
  const clean = () => { document.getElementById('failure').hidden = true }
  return el('div', {},
    el('h2', {}, policy.isNew ? 'New policy' : `${policy.kind} ${[policy.namespace, policy.name].filter(Boolean).join('/')}`),
    el('label', { for: 'yaml' }, 'YAML'), area,
    el('p', { class: 'buttons' },
      el('button', { type: 'button', class: 'primary', id: 'what-changes', onclick: act(() => { clean(); change.set(policy, area.value) }) }, 'What changes?'),
      !policy.isNew && el('button', { type: 'button', id: 'drop', onclick: act(() => { clean(); change.set(policy, null) }) }, 'Drop this policy'),
      el('button', { type: 'button', onclick: async () => { await navigator.clipboard.writeText(area.value); page.status('The YAML is copied.') } }, 'Copy YAML'),
      el('button', { type: 'button', onclick: act(() => { clean(); change.forget(policy); draft = undefined }) }, 'As it is')))
}

function result() {
  const answer = change.result()
  if (!answer) return null
  const { diff, text } = answer
  const rows = (list, how, sign) => (list ?? []).map(c => el('tr', { class: how, 'data-how': how },
    el('td', {}, `${sign} ${how}`), el('td', {}, name(c.from)), el('td', {}, name(c.to)), el('td', {}, openingText(c))))
  const all = [...rows(diff.opened, 'opened', '+'), ...rows(diff.closed, 'closed', '−'), ...rows(diff.unclear, 'unclear', '?')]
  return el('section', { id: 'result', tabindex: '-1', 'aria-label': 'What changes' },
    el('h2', {}, 'What changes'), el('p', {}, change.summary()),
    all.length > 0 && table('What is opened and closed', ['', 'From', 'To', 'Ports'], all),
    all.length > 0 && el('p', { class: 'buttons' }, el('button', { type: 'button', onclick: () => go('map') }, 'Show it on the map'),
      el('button', { type: 'button', onclick: () => go('matrix') }, 'Show it in the matrix')),
    text.trim() && el('details', {}, el('summary', {}, 'As kubectl podfence diff prints it'), el('pre', { class: 'answer', tabindex: '0', 'aria-label': 'The difference' }, text.trimEnd())))
}
