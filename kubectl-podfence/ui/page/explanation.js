// Why one reaches another, or not, with the rules in the YAML of their policies.
import { get } from './api.js'
import { el } from './dom.js'
import { openPanel } from './panel.js'

const words = { allows: 'allows it', denies: 'denies it', passes: 'passes it on', isolates: 'isolates the pod', misses: 'nearly allows it' }

// explain asks, and shows the answer at the side. The port may be left out.
export async function explain(from, to, port, page) {
  openPanel(`${from} → ${to}${port ? ':' + port : ''}`, el('p', {}, 'Asking…'))
  try {
    const answer = await get('explain', { from, to, port })
    const panel = openPanel(`${from} → ${to}${port ? ':' + port : ''}`,
      el('p', {}, el('strong', { class: 'verdict', 'data-verdict': answer.explanation.verdict }, answer.explanation.verdict)),
      el('pre', { class: 'answer', tabindex: '0', 'aria-label': 'The explanation' }, answer.text.trimEnd()),
      el('p', { class: 'quiet' }, 'The same: ', el('code', {}, `kubectl podfence explain ${from} ${to}${port ? ':' + port : ''}`)),
      answer.policies.map(policyText))
    panel.dataset.explained = `${from} ${to}`
    page?.status?.(`${from} to ${to}: ${answer.explanation.verdict}`)
    panel.querySelector('h2')?.focus()
  } catch (error) {
    openPanel(`${from} → ${to}`, el('p', { role: 'alert' }, error.message))
  }
}

// policyText is a policy with its marked lines.
function policyText(policy) {
  const marks = policy.lines ?? []
  const lines = policy.yaml.trimEnd().split('\n').map((text, i) => {
    // Of marks within each other, the one with fewer lines says more.
    const mark = marks.filter(m => m.from <= i + 1 && i + 1 <= m.to).sort((a, b) => (a.to - a.from) - (b.to - b.from))[0]
    if (!mark) return el('span', { class: 'line' }, text)
    return el('mark', { class: 'line ' + mark.how, 'data-line': i + 1, title: `This ${words[mark.how] ?? mark.how}.` }, text)
  })
  const said = [...new Set(marks.map(m => words[m.how]).filter(Boolean))].join(', ')
  return el('details', { open: marks.length > 0, 'data-policy': `${policy.kind}/${policy.namespace ?? ''}/${policy.name}` },
    el('summary', {}, `${policy.kind} ${[policy.namespace, policy.name].filter(Boolean).join('/')}`,
      policy.staged && ' (staged: not in force)', said && el('span', { class: 'quiet' }, ` ${said}`)),
    el('pre', { class: 'yaml', tabindex: '0', 'aria-label': `YAML of ${policy.name}` }, lines))
}
