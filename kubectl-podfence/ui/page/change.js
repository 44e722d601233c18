// A change of policies that is thought of, and what it would open and close. Nothing of it is written anywhere.
import { post } from './api.js'
import { partyId } from './words.js'

const edits = new Map() // by key: {kind, namespace, name, yaml}; yaml is null if the policy is dropped
const watchers = []
let diff, text = ''

export const keyOf = p => `${p.kind}/${p.namespace ?? ''}/${p.name}`
export const count = () => edits.size
export const edited = p => edits.get(keyOf(p))
export const all = () => [...edits.values()]
export const result = () => diff && { diff, text }
export const onChange = f => watchers.push(f)

const tell = () => watchers.forEach(f => f())

// set takes a policy's new YAML, or null for dropping it.
export function set(policy, yaml) {
  edits.set(keyOf(policy), { kind: policy.kind, namespace: policy.namespace, name: policy.name, isNew: policy.isNew, yaml })
}

export function forget(policy) { edits.delete(keyOf(policy)) }

export function clear() {
  edits.clear()
  diff = undefined
  text = ''
  tell()
}

// ask asks what the change does.
export async function ask() {
  if (!edits.size) return clear()
  const list = all()
  const answer = await post('whatif', {
    apply: list.filter(e => e.yaml !== null).map(e => e.yaml).join('\n---\n'),
    delete: list.filter(e => e.yaml === null).map(({ kind, namespace, name }) => ({ kind, namespace, name })),
  })
  diff = answer.diff
  text = answer.text
  tell()
}

// summary is the change in a few words.
export function summary() {
  if (!diff) return ''
  const n = diff.opened.length, m = diff.closed.length, u = diff.unclear?.length ?? 0
  if (!n && !m && !u) return 'It makes no difference to who reaches whom.'
  return `It opens ${n}, closes ${m}${u ? ` and leaves ${u} unclear` : ''}.`
}

// changes are what is opened and closed, by what a map calls both ends.
export function changes() {
  if (!diff) return []
  const as = (list, how) => (list ?? []).map(c => ({ from: partyId(c.from), to: partyId(c.to), namespaces: [c.from.namespace, c.to.namespace], how, opening: c }))
  return [...as(diff.opened, 'opened'), ...as(diff.closed, 'closed'), ...as(diff.unclear, 'unclear')]
}
