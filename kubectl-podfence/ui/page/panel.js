// The details at the side.
import { byId, el } from './dom.js'

let before // what had the focus before the details were opened

// openPanel shows details under a title.
export function openPanel(title, ...children) {
  const panel = byId('panel')
  if (panel.hidden) before = document.activeElement
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
  if (before?.isConnected) before.focus()
}
