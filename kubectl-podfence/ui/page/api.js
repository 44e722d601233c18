// The server's answers. Addresses are relative, as the page's own has the token.

// get asks for JSON. Values of the query may be lists. An error says what the server said.
export async function get(path, query = {}) {
  return read(await fetch('api/' + path + text(query), { headers: { Accept: 'application/json' } }))
}

// post sends JSON, and reads it.
export async function post(path, body = {}) {
  return read(await fetch('api/' + path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) }))
}

// lines calls each with each line of JSON of a stream, until it ends or the signal stops it.
export async function lines(path, query, signal, each) {
  const response = await fetch('api/' + path + text(query), { signal })
  if (!response.ok) await read(response)
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return
    const parts = (rest + value).split('\n')
    rest = parts.pop()
    for (const part of parts) if (part) each(JSON.parse(part))
  }
}

function text(query) {
  const all = new URLSearchParams()
  for (const [name, value] of Object.entries(query)) {
    for (const one of [value].flat()) if (one !== undefined && one !== null && one !== '' && one !== false) all.append(name, one)
  }
  const out = all.toString()
  return out && '?' + out
}

async function read(response) {
  let value
  try {
    value = await response.json()
  } catch {
    throw new Error(`the server answers ${response.status}: does kubectl podfence ui still run?`)
  }
  if (!response.ok) throw new Error(value.error ?? `the server answers ${response.status}`)
  return value
}
