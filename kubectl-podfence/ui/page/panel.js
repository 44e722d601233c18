// The details at the side.
import { byId, el } from './dom.js'

let before // what had the focus before the details were opened, and by what it is found if it was drawn anew

// openPanel shows details under a title.
export function openPanel(title, ...children) {
  const panel = byId('panel')
  const active = document.activeElement
  if (active !== document.body && !panel.contains(active)) before = { element: active, selector: selectorOf(active) }
  panel.replaceChildren(
    el('div', { class: 'title' }, el('h2', { tabindex: '-1' }, title),
      el('button', { type: 'button', class: 'close', 'aria-label': 'Close the details', onclick: closePanel }, '×')),
    ...children.flat().filter(Boolean))
  panel.hidden = false
  panel.scrollTop = 0
  return panel
}

export function closePanel() {
  const panel = byId('panel')
  if (panel.hidden) return
  panel.hidden = true
  panel.replaceChildren()
  const back = before?.element.isConnected ? before.element : before?.selector && document.querySelector(before.selector)
  back?.focus()
}

// selectorOf finds what is of a map or a matrix after it was drawn anew.
function selectorOf({ dataset = {} }) {
  const parts = ['id', 'from', 'to'].filter(name => dataset[name]).map(name => `[data-${name}="${CSS.escape(dataset[name])}"]`)
  return parts.join('')
}
