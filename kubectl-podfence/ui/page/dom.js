// What all views make elements by. Text becomes text, never markup.

const svgSpace = 'http://www.w3.org/2000/svg'

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value)
    else element.setAttribute(name, value === true ? '' : value)
  }
  for (const child of children.flat(Infinity)) {
    if (child !== undefined && child !== null && child !== false) element.append(child)
  }
  return element
}

// el makes an element of HTML: el('a', {href: '#map', onclick: f}, 'text', other elements).
export const el = (tag, properties, ...children) => fill(document.createElement(tag), properties, children)

// svg makes an element of SVG.
export const svg = (tag, properties, ...children) => fill(document.createElementNS(svgSpace, tag), properties, children)

// byId is an element of index.html.
export const byId = id => document.getElementById(id)

// table is a table with a caption for screen readers, column titles and rows of cells.
export function table(caption, titles, rows) {
  return el('div', { class: 'scroll' },
    el('table', {},
      el('caption', {}, caption),
      el('thead', {}, el('tr', {}, titles.map(t => el('th', { scope: 'col' }, t)))),
      el('tbody', {}, rows)))
}
