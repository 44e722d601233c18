package policy

import (
	"net/netip"
	"slices"
)

// LocalAddr is an address of a container of this node.
type LocalAddr struct {
	Addr netip.Addr
	// HostInterface is the node's end of the container's link. Empty where nobody has
	// told.
	HostInterface string
	// Closed says, per Direction, that the address's pod is isolated, or not known.
	Closed [len(Directions)]bool
}

// Contested are those of an attachment's addresses that another container of this node may
// have as well: another attachment has them, or the API shows them for another pod of this
// node.
func (m *Model) Contested(a Attachment) (ips []netip.Addr) {
	for _, ip := range a.IPs {
		attached := slices.ContainsFunc(m.attached[ip], func(other Attachment) bool {
			return other.ContainerID != a.ContainerID || other.IfName != a.IfName
		})
		shown := slices.ContainsFunc(m.claims[ip], func(p *Pod) bool { return p.Node == m.node && p.Key != a.Pod })
		if attached || shown {
			ips = append(ips, ip)
		}
	}
	return ips
}

// LocalAddrs are the addresses of the node's pods, and of its containers whose pod is not
// known, in no order.
func (m *Model) LocalAddrs() (locals []LocalAddr) {
	closed := map[netip.Addr][len(Directions)]bool{}
	for _, ns := range m.namespaces {
		for key, selecting := range ns.subjects {
			pod := m.pod(key)
			for _, ip := range m.here(pod) {
				is := closed[ip]
				for _, d := range Directions {
					is[d] = is[d] || pod.Unread
				}
				for _, s := range selecting {
					for _, d := range Directions {
						is[d] = is[d] || s.Isolates[d]
					}
				}
				closed[ip] = is
			}
		}
	}
	for ip := range m.attached {
		if m.isOrphan(ip) {
			closed[ip] = [...]bool{true, true}
		}
	}
	for ip, is := range closed {
		local := LocalAddr{Addr: ip, Closed: is}
		if attached := m.attached[ip]; len(attached) > 0 {
			local.HostInterface = attached[0].HostInterface
		}
		locals = append(locals, local)
	}
	return locals
}
