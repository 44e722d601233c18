package policy

import "net/netip"

// A rule that accepts means an address only if it is sure that it is meant: if several pods may have
// the address, each of them must be. For a rule that denies or passes, the same reading would open:
// what cannot be told to be denied would get through. So before a ClusterNetworkPolicy that asks who
// somebody is, to deny or to pass it, everybody in doubt is denied. An address is in doubt
//
//   - if several pods have it, and nobody can tell which;
//   - if a pod has it that is in a namespace that is not known, or whose labels were not kept;
//   - if a Node shows it as its own, and a pod has it as well.

// doubts is which addresses are in doubt.
type doubts struct {
	// doubtful are those that were handed out, and changedDoubtful those that the next Take has to
	// look at.
	doubtful, changedDoubtful map[netip.Addr]struct{}
}

func newDoubts() doubts {
	return doubts{doubtful: map[netip.Addr]struct{}{}, changedDoubtful: map[netip.Addr]struct{}{}}
}

// isDoubtful reports whether an address is in doubt that these pods have.
func (m *Model) isDoubtful(ip netip.Addr, holders []*Pod) bool {
	return doubtful(holders, len(m.listers[ip]) > 0, func(pod *Pod) *Namespace { return m.in(pod.Namespace).object })
}

// doubtful reports whether an address is in doubt that these pods have. listed says whether a Node
// shows it as its own. The function object returns a pod's namespace.
func doubtful(holders []*Pod, listed bool, object func(*Pod) *Namespace) bool {
	if len(holders) == 0 {
		return false
	}
	return listed || len(holders) > 1 || holders[0].Unread || object(holders[0]) == nil
}

// noteDoubt notes that an address that these pods have may have come in doubt, or out of it.
func (m *Model) noteDoubt(ip netip.Addr, holders []*Pod) {
	if _, was := m.doubtful[ip]; was != m.isDoubtful(ip, holders) {
		m.changedDoubtful[ip] = struct{}{}
	}
}

// takeDoubtful returns how the addresses in doubt differ from those that were handed out.
func (m *Model) takeDoubtful() (changed map[netip.Addr]bool) {
	changed = map[netip.Addr]bool{}
	for ip := range m.changedDoubtful {
		_, was := m.doubtful[ip]
		is := m.isDoubtful(ip, m.holders(ip))
		if was == is {
			continue
		}
		if changed[ip] = is; is {
			m.doubtful[ip] = struct{}{}
		} else {
			delete(m.doubtful, ip)
		}
	}
	m.changedDoubtful = map[netip.Addr]struct{}{}
	return changed
}

// AsksWho reports whether a policy has to know who the peer is, or who the subject is, to deny or to
// pass something in a direction.
func (p *Policy) AsksWho(d Direction) (peer, subject bool) {
	for i := range p.Rules[d] {
		r := &p.Rules[d][i]
		if r.Action == Accept {
			continue
		}
		named := len(r.NamedPorts) > 0
		peer = peer || len(r.Peers) > 0 || named && d == Egress
		subject = subject || named && d == Ingress
	}
	return peer, subject
}
