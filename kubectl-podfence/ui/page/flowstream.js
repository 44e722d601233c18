// Flows as the agents tell them. Whoever watches gets those that come from then on.
import { lines } from './api.js'

// watch reads flows by a query, and again when the stream ends, until stop is called.
export function watch(query, { flow, note }) {
  const control = new AbortController()
  const read = async () => {
    let first = query.last ?? 100
    for (;;) {
      try {
        await lines('flows', { ...query, last: first }, control.signal, line => {
          if (line.flow) flow(line.flow)
          else if (line.note) note(line.note)
        })
        note('The stream has ended; asking again.')
      } catch (error) {
        if (control.signal.aborted) return
        note(error.message)
      }
      first = 0 // what was shown is not shown twice
      await new Promise(resolve => setTimeout(resolve, 3000))
      if (control.signal.aborted) return
    }
  }
  read()
  return { stop: () => control.abort() }
}
