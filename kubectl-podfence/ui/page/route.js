// What the address bar says: #view?name=value. All that a view shows is there, so that it can be kept, and gone back to.

// route reads it.
export function route() {
  const [view, query = ''] = decodeHash().split('?')
  return { view: view || 'map', params: new URLSearchParams(query) }
}

const decodeHash = () => location.hash.slice(1)

// go changes it. Values that are empty are left out, and lists are repeated.
export function go(view, values) {
  location.hash = address(view, values)
}

// replace changes it without a step to go back by, as while somebody types.
export function replace(view, values) {
  history.replaceState(null, '', address(view, values))
}

export function address(view, values = {}) {
  const params = new URLSearchParams()
  for (const [name, value] of Object.entries(values)) {
    for (const one of [value].flat()) if (one !== undefined && one !== null && one !== '' && one !== false) params.append(name, one)
  }
  const query = params.toString()
  return '#' + view + (query && '?' + query)
}
