// How what the server answers reads as text. It reads as kubectl podfence writes it.

const short = { Pod: 'pod', Deployment: 'deploy', StatefulSet: 'sts', DaemonSet: 'ds', ReplicaSet: 'rs', ReplicationController: 'rc', Job: 'job', CronJob: 'cronjob' }

// partyId is what a Party is called, on a map and in a matrix.
export function partyId(p) {
  switch (p.kind) {
    case 'Nodes': return 'nodes'
    case 'Network':
      if (p.network.endsWith('/0')) return `outside (any other ${p.network.includes(':') ? 'IPv6' : 'IPv4'} address)`
      return p.network
    case 'Domain': return 'domain/' + p.name
    case 'Pod': return `${p.namespace}/${p.name}`
    case 'Address': return p.name
    case 'Node': return 'node/' + p.name
  }
  return `${short[p.kind] ?? p.kind}/${p.namespace}/${p.name}`
}

// endId is which Party an end of a flow belongs to; networks are those that are known, and names are domain names.
export function endId(end, networks = [], names = []) {
  if (end.workload) return `${short[end.workload.kind] ?? end.workload.kind}/${end.namespace}/${end.workload.name}`
  if (end.pod) return `${end.namespace}/${end.pod}`
  if (end.node) return 'nodes'
  for (const name of names) if (networks.some(n => n.id === 'domain/' + name)) return 'domain/' + name
  let best
  for (const n of networks) {
    if (n.network && contains(n.network, end.ip) && (!best || bits(n.network) > bits(best.network))) best = n
  }
  return best ? best.id : end.ip
}

const bits = prefix => Number(prefix.split('/')[1])

// contains reports whether a network has an address. Both are as Go writes them.
export function contains(prefix, ip) {
  const [network, length] = prefix.split('/')
  const a = number(network), b = number(ip)
  if (a.size !== b.size) return false
  const shift = BigInt(a.size - Number(length))
  return a.value >> shift === b.value >> shift
}

function number(ip) {
  if (!ip.includes(':')) return { size: 32, value: ip.split('.').reduce((sum, part) => sum * 256n + BigInt(part), 0n) }
  const [head, tail] = ip.split('::').map(part => part ? part.split(':') : [])
  const groups = tail ? [...head, ...Array(8 - head.length - tail.length).fill('0'), ...tail] : head
  return { size: 128, value: groups.reduce((sum, part) => sum * 65536n + BigInt('0x' + part), 0n) }
}

const everything = open => open.length === 4 && open.every(o => o.ports.length === 1 && o.ports[0] === 'all')

// openText are ports that are open.
export function openText(open) {
  if (everything(open)) return 'all ports'
  return open.map(o => o.protocol === 'other' ? 'ICMP and other protocols' : `${o.protocol} ${o.ports.join(',')}`).join(', ')
}

// openingText are the ports of an Opening.
export function openingText(o) {
  let text = openText(o.open ?? [])
  if (o.unknown?.length) text = [text, 'not known: ' + openText(o.unknown)].filter(Boolean).join('; ')
  if (!text) text = 'closed'
  if (o.family) text = `${o.family}: ${text}`
  if (o.partly) text += ` (${o.pairs} of ${o.of} pairs)`
  return text
}

// isolation says of which pods traffic in a direction is isolated: all, some or none.
export function isolation(isolated, pods) {
  if (!pods) return { mark: '□', text: 'no pods' }
  if (!isolated) return { mark: '□', text: 'not isolated' }
  if (isolated < pods) return { mark: '◧', text: `${isolated} of ${pods} pods isolated` }
  return { mark: '■', text: 'isolated' }
}

// plural is a number with its word.
export const plural = (n, word) => `${n} ${word}${n === 1 ? '' : 's'}`
