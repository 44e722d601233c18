package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

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

// NotBehind are the addresses of this node's pods that are not at an interface of which
// attached says that the CNI plugin has connected it, and those that another container may have
// as well. They are in order.
func (m *Model) NotBehind(attached func(Attachment) bool) (ips []netip.Addr) {
	behind := map[netip.Addr]bool{}
	for _, a := range m.made {
		ips = append(ips, m.Contested(a)...)
		for _, ip := range a.IPs {
			behind[ip] = attached(a)
		}
	}
	local := func(ip netip.Addr) {
		if !behind[ip] {
			ips = append(ips, ip)
		}
	}
	for _, ns := range m.namespaces {
		for key := range ns.subjects {
			for _, ip := range m.here(m.pod(key)) {
				local(ip)
			}
		}
	}
	for ip := range m.attached {
		if m.isOrphan(ip) {
			local(ip)
		}
	}
	return sortedAddrs(ips)
}

// LocalAddr is an address of a container of this node.
type LocalAddr struct {
	Addr netip.Addr
	// HostInterface is the node's end of the container's link. Empty where nobody has
	// told.
	HostInterface string
	// Closed says, per Direction, that the address's pod is isolated, or not known.
	Closed [len(Directions)]bool
}

// Locals are the addresses of a node's containers, as its intent has them. Apply keeps them up
// to date. The zero value has none.
type Locals struct {
	subjects map[Key]Subject
	orphans  map[netip.Addr]bool
	// interfaces are the node's ends of the containers' links, by address and attachment.
	interfaces  map[netip.Addr]map[AttachmentKey]string
	attachments map[AttachmentKey]Attachment
}

// NewLocals are those of an intent.
func NewLocals(in Intent) *Locals {
	l := &Locals{
		subjects: map[Key]Subject{}, orphans: map[netip.Addr]bool{},
		interfaces: map[netip.Addr]map[AttachmentKey]string{}, attachments: map[AttachmentKey]Attachment{},
	}
	orphans := map[netip.Addr]bool{}
	for ip := range in.Orphans {
		orphans[ip] = true
	}
	l.Apply(Delta{Subjects: pointersTo(in.Subjects), Orphans: orphans, Attachments: pointersTo(in.Attachments)})
	return l
}

// Apply takes in what has changed.
func (l *Locals) Apply(d Delta) {
	Replace(l.subjects, d.Subjects)
	for ip, is := range d.Orphans {
		if delete(l.orphans, ip); is {
			l.orphans[ip] = true
		}
	}
	for key, a := range d.Attachments {
		for _, ip := range l.attachments[key].IPs {
			if delete(l.interfaces[ip], key); len(l.interfaces[ip]) == 0 {
				delete(l.interfaces, ip)
			}
		}
		delete(l.attachments, key)
		if a == nil {
			continue
		}
		l.attachments[key] = *a
		for _, ip := range a.IPs {
			if l.interfaces[ip] == nil {
				l.interfaces[ip] = map[AttachmentKey]string{}
			}
			l.interfaces[ip][key] = a.HostInterface
		}
	}
}

// Addrs are the addresses of the node's pods, and of its containers whose pod is not known, in
// no order.
func (l *Locals) Addrs() (addrs []LocalAddr) {
	closed := map[netip.Addr][len(Directions)]bool{}
	for _, s := range l.subjects {
		for _, ip := range s.IPs {
			is := closed[ip]
			for _, d := range Directions {
				is[d] = is[d] || s.Fenced(d)
			}
			closed[ip] = is
		}
	}
	for ip := range l.orphans {
		closed[ip] = [...]bool{true, true}
	}
	for ip, is := range closed {
		addrs = append(addrs, LocalAddr{Addr: ip, HostInterface: l.hostInterface(ip), Closed: is})
	}
	return addrs
}

// hostInterface is the node's end of the link of the container that has an address. Where
// several attachments have it, the first by name counts.
func (l *Locals) hostInterface(ip netip.Addr) string {
	at := l.interfaces[ip]
	if len(at) == 0 {
		return ""
	}
	return at[slices.MinFunc(slices.Collect(maps.Keys(at)), func(a, b AttachmentKey) int { return cmp.Compare(a.String(), b.String()) })]
}
