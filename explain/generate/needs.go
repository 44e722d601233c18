package generate

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/policy"
)

// needs are what the rules of a unit must let pass in one direction, by the other end.
type needs struct {
	units map[*unit]map[port]*evidence
	nodes map[netip.Addr]map[port]*evidence
	// outside is by the port first, as the addresses of one are grouped.
	outside map[port]map[netip.Addr]*evidence
}

// port is a destination port that rules can name.
type port struct {
	protocol policy.Protocol
	number   uint16
}

// evidence is what was seen of a peer at a port.
type evidence struct {
	connections uint64
	nodes       map[string]bool
	services    map[string]bool
	// addresses is how many there are in a network.
	addresses int
}

func newEvidence() *evidence { return &evidence{nodes: map[string]bool{}, services: map[string]bool{}} }

// add adds what other evidence says.
func (e *evidence) add(other *evidence) {
	e.connections += other.connections
	e.addresses += other.addresses
	for name := range other.nodes {
		e.nodes[name] = true
	}
	for name := range other.services {
		e.services[name] = true
	}
}

func newNeeds() needs {
	return needs{units: map[*unit]map[port]*evidence{}, nodes: map[netip.Addr]map[port]*evidence{}, outside: map[port]map[netip.Addr]*evidence{}}
}

// gatherNeeds works out what each unit's rules must let pass.
func (g *generator) gatherNeeds() {
	for _, u := range g.units {
		u.ingress, u.egress = newNeeds(), newNeeds()
	}
	g.dns = g.findDNS()
	for _, c := range g.connections {
		from, to := g.unitOf[c.source.pod], g.unitOf[c.destination.pod]
		at := port{c.protocol, c.port}
		if from != nil {
			from.seen = true
		}
		if to != nil {
			to.seen = true
		}
		if !c.hasPort() || g.dns.has(to, at) && from != nil {
			continue
		}
		if from != nil && !g.dns.isNodeLocal(c.destination, at) {
			from.egress.add(to, c.destination, at, c)
		}
		if to != nil {
			to.ingress.add(from, c.source, at, c)
		}
	}
}

// add adds connections with another end, which is a unit's pod or not.
func (n *needs) add(peer *unit, at end, by port, c *connection) {
	seen := newEvidence()
	seen.connections, seen.services = c.count(), c.services
	if at.node != "" {
		seen.nodes[at.node] = true
	}
	switch {
	case peer != nil:
		note(n.units, peer, by, seen)
	case at.node != "":
		note(n.nodes, at.addr, by, seen)
	default:
		note(n.outside, by, at.addr, seen)
	}
}

// note adds evidence at a place of a map of maps.
func note[A, B comparable](in map[A]map[B]*evidence, a A, b B, seen *evidence) {
	if in[a] == nil {
		in[a] = map[B]*evidence{}
	}
	if in[a][b] == nil {
		in[a][b] = newEvidence()
	}
	in[a][b].add(seen)
}

// apiProtocol is a protocol as policies name it.
func apiProtocol(p policy.Protocol) corev1.Protocol { return corev1.Protocol(p.String()) }
