// Flows on the map: how many of each verdict were seen between two of its nodes.
import { endId } from './words.js'
import { watch } from './flowstream.js'

// counter counts flows from now on, and calls changed now and then.
export function counter(changed) {
  const seen = new Map()
  let late
  const stream = watch({ verdict: [] }, {
    flow: flow => {
      const key = JSON.stringify([slim(flow.source), slim(flow.destination), flow.destinationNames ?? [], flow.verdict])
      const n = (flow.event === 'ended' ? 0 : 1) + (flow.repeats ?? 0)
      if (!n) return
      seen.set(key, (seen.get(key) ?? 0) + n)
      late ??= setTimeout(() => { late = undefined; changed() }, 500)
    },
    note: () => {},
  })
  return {
    stop: () => { stream.stop(); clearTimeout(late) },
    // edges are the flows between nodes of a map; collapsed gives the node that a namespace's workloads are in.
    edges(nodes, collapsed) {
      const ids = new Set(nodes.map(n => n.id)), networks = nodes.filter(n => n.kind === 'Network' || n.kind === 'Domain'), sum = new Map()
      const place = (end, names) => {
        const id = endId(end, networks, names)
        return ids.has(id) ? id : collapsed(end.namespace)
      }
      for (const [key, n] of seen) {
        const [source, destination, names, verdict] = JSON.parse(key)
        const from = place(source, []), to = place(destination, names)
        if (!ids.has(from) || !ids.has(to)) continue
        const at = JSON.stringify([from, to, verdict])
        sum.set(at, (sum.get(at) ?? 0) + n)
      }
      return [...sum].map(([at, n]) => {
        const [from, to, verdict] = JSON.parse(at)
        return { from, to, verdict, count: n }
      })
    },
  }
}

const slim = ({ ip, namespace, pod, workload, node }) => ({ ip, namespace, pod, workload, node })
