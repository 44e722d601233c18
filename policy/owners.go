package policy

import (
	"net/netip"
	"slices"
)

// To decide which pod an address belongs to, the node goes by these sources. The first that
// says something about the address decides:
//
//  1. The attachments of the node's own containers. The address belongs to the pod that the
//     attachment was made for. If that pod is not known here, it belongs to nobody: it is an
//     orphan, to and from which nothing passes. No API object outranks this.
//  2. What the API says about pods of this node.
//  3. What the API says about pods of other nodes, or what their nodes' agents have announced
//     (announced.go), but not for an address that is ours: one inside this node's own pod
//     ranges, or the node's own.
//
// That another Node object shows an address as its own counts for nothing here: in that way
// a node could take the policies from another node's pods.
//
// Among pods of one source, those that stay come before those that terminate. If several
// remain, nobody can tell which of them has the address: the policies of all of them apply
// to it, and as a peer it has only the rights that all of them have.

// owners is what the node knows about whom addresses belong to.
type owners struct {
	// claims are the pods that have an address by the API or by an attachment, in
	// no order. The slices are never changed, only replaced.
	claims map[netip.Addr][]*Pod
	// attached are the attachments that have an address: usually one.
	attached map[netip.Addr][]Attachment
	// changedAttached are the attachments for which the answer of Attached may have changed.
	changedAttached map[AttachmentKey]struct{}
	// orphans are those that were handed out; changedOrphans are the addresses that the next
	// Take has to look at.
	orphans, changedOrphans map[netip.Addr]struct{}
}

func newOwners() owners {
	return owners{
		claims: map[netip.Addr][]*Pod{}, attached: map[netip.Addr][]Attachment{}, changedAttached: map[AttachmentKey]struct{}{},
		orphans: map[netip.Addr]struct{}{}, changedOrphans: map[netip.Addr]struct{}{},
	}
}

// rank says how far a node trusts what the API says about a pod's address; the lowest rank is
// the best. An address that is ours, that is the node's own or inside its ranges, is refused
// for pods of other nodes.
func (p *Pod) rank(node string, ours bool) int {
	rank := 0
	switch {
	case p.Node == node:
	case ours:
		return refused
	default:
		rank = 2
	}
	if p.Terminating {
		rank++
	}
	return rank
}

const refused = 4

// best returns those of an address's claims that have the best rank.
func best(claims []*Pod, node string, ours bool) (holders []*Pod) {
	top := refused
	for _, pod := range claims {
		switch rank := pod.rank(node, ours); {
		case rank > top || rank == refused:
		case rank < top:
			top, holders = rank, []*Pod{pod}
		default:
			holders = append(holders, pod)
		}
	}
	// Sorted, so that one can compare them.
	slices.SortFunc(holders, func(a, b *Pod) int { return compareKey(a.Key, b.Key) })
	return holders
}

// holders returns the pods that have an address, as far as this node can tell: mostly
// one; none, if it is unknown or an orphan. The slice must not be changed.
func (m *Model) holders(ip netip.Addr) []*Pod {
	if attached := m.attached[ip]; len(attached) > 0 {
		return m.attachedTo(attached)
	}
	claims := m.claims[ip]
	if len(claims) == 1 && claims[0].Node == m.node || len(claims) == 0 {
		return claims
	}
	ours := m.ours(ip)
	if len(claims) == 1 && !ours {
		return claims
	}
	return best(claims, m.node, ours)
}

// PodAt is the pod that has an address, as far as this node can tell; nil if none has, or nobody can tell
// which of several.
func (m *Model) PodAt(ip netip.Addr) *Pod {
	if holders := m.holders(ip); len(holders) == 1 {
		return holders[0]
	}
	return nil
}

// NodeAt is the name of the node that shows an address as its own; empty if none does.
func (m *Model) NodeAt(ip netip.Addr) string {
	if m.nodeNames == nil {
		m.nodeNames = map[netip.Addr]string{}
		for name, node := range m.nodes {
			for _, addr := range node.listed() {
				m.nodeNames[addr] = name
			}
		}
	}
	return m.nodeNames[ip]
}

// GatewayAt is the name of the node one of whose pod ranges begins before an address: where podfence connects the
// pods, that address is the node's own, their gateway. Empty if there is none.
func (m *Model) GatewayAt(ip netip.Addr) string {
	if m.gateways == nil {
		m.gateways = map[netip.Addr]string{}
		for name, node := range m.nodes {
			for _, cidr := range node.PodCIDRs {
				m.gateways[cidr.Masked().Addr().Next()] = name
			}
		}
	}
	return m.gateways[ip]
}

// ours reports whether an address is the node's own, or one of its ranges.
func (m *Model) ours(ip netip.Addr) bool {
	return contains(m.podCIDRs, ip) || slices.Contains(m.nodes[m.node].Addrs, ip)
}

// attachedTo returns the one pod that all these attachments were made for; none if it
// is not known, or if they are of different pods.
func (m *Model) attachedTo(attached []Attachment) []*Pod {
	var holder *Pod
	for _, a := range attached {
		pod := m.pod(a.Pod)
		if pod == nil || !a.madeFor(pod, m.node) || holder != nil && holder != pod {
			return nil
		}
		holder = pod
	}
	return []*Pod{holder}
}

func contains(prefixes []netip.Prefix, ip netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// Refused are those of this node's own addresses, and of the addresses in its ranges, that the
// API shows only for pods of other nodes, in order.
func (m *Model) Refused() (ips []netip.Addr) {
	for ip, claims := range m.claims {
		if m.ours(ip) && len(m.attached[ip]) == 0 && !slices.ContainsFunc(claims, func(p *Pod) bool { return p.Node == m.node }) {
			ips = append(ips, ip)
		}
	}
	return sortedAddrs(ips)
}

// change calls f, which changes what is known of whom these addresses belong to, and brings up
// to date all that depends on it. Each address must be listed once.
func (m *Model) change(ips []netip.Addr, f func()) {
	before, nodes := make([][]*Pod, len(ips)), make([][]*peers, len(ips))
	for i, ip := range ips {
		before[i], nodes[i] = m.holders(ip), m.nodesMeaning(ip)
	}
	f()
	for i, ip := range ips {
		for _, a := range m.attached[ip] {
			m.changedAttached[a.Key()] = struct{}{}
		}
		m.changedOrphan(ip)
		m.nodeMoved(ip, nodes[i], m.nodesMeaning(ip))
		after := m.holders(ip)
		m.noteDoubt(ip, after)
		if !slices.EqualFunc(before[i], after, samePod) {
			m.resolutions.forgetOf(ip)
		}
		if slices.Equal(before[i], after) {
			continue
		}
		m.moved(ip, before[i], false)
		m.moved(ip, after, true)
		for _, pod := range before[i] {
			m.refreshSubject(pod.Key)
		}
		for _, pod := range after {
			m.refreshSubject(pod.Key)
		}
	}
}

// samePod reports whether both are the same pod, however it has changed.
func samePod(a, b *Pod) bool { return a.Key == b.Key && a.UID == b.UID && a.Node == b.Node }

// changedOrphan notes that an address may have become an orphan, or ceased to be one.
func (m *Model) changedOrphan(ip netip.Addr) {
	_, was := m.orphans[ip]
	if was || len(m.attached[ip]) > 0 {
		m.changedOrphans[ip] = struct{}{}
	}
}

// isOrphan reports whether a container here has the address, but no known pod does.
func (m *Model) isOrphan(ip netip.Addr) bool {
	return len(m.attached[ip]) > 0 && len(m.holders(ip)) == 0
}

// takeOrphans returns how the orphans differ from those that were handed out.
func (m *Model) takeOrphans() (changed map[netip.Addr]bool) {
	changed = map[netip.Addr]bool{}
	for ip := range m.changedOrphans {
		_, was := m.orphans[ip]
		is := m.isOrphan(ip)
		if was == is {
			continue
		}
		if changed[ip] = is; is {
			m.orphans[ip] = struct{}{}
		} else {
			delete(m.orphans, ip)
		}
	}
	m.changedOrphans = map[netip.Addr]struct{}{}
	return changed
}

// moved notes that pods came to have an address together, or ceased to have it.
func (m *Model) moved(ip netip.Addr, pods []*Pod, in bool) {
	if len(pods) == 0 {
		return
	}
	pod := pods[0]                // a selector that means all of them means this one
	seen := map[*peers]struct{}{} // peers that may be found by several labels
	visit := func(at labelIndex) {
		for g := range m.byLabel[at] {
			if len(g.matchers) > 1 {
				if _, done := seen[g]; done {
					continue
				}
				seen[g] = struct{}{}
			}
			if m.allMatch(g, pods) {
				m.toggle(g, ip, in)
			}
		}
	}
	visit(labelIndex{})
	visit(labelIndex{namespace: pod.Namespace})
	for key, value := range pod.Labels.All() {
		label := key + "=" + value
		visit(labelIndex{label: label})
		visit(labelIndex{namespace: pod.Namespace, label: label})
	}
	for _, port := range pod.Ports {
		for _, name := range namesOf(port) {
			if t := m.named[name]; t != nil && name.meansAll(pods, port, m.node) {
				t.note(Endpoint{Addr: ip, Protocol: port.Protocol, Port: port.Number}, in)
				m.changedNamed[name] = t
			}
		}
	}
}

// namesOf are the names that a port of a pod may go by.
func namesOf(port ContainerPort) (names []NamedPort) {
	for _, scope := range [...]Scope{Local, Cluster} {
		for _, protocol := range [...]Protocol{port.Protocol, 0} {
			names = append(names, NamedPort{Protocol: protocol, Name: port.Name, Scope: scope})
		}
	}
	return names
}

// allMatch reports whether a selector means each of these pods.
func (m *Model) allMatch(g *peers, pods []*Pod) bool {
	return meansAll(g.matchers, pods, func(pod *Pod) *Namespace { return m.in(pod.Namespace).object })
}

// means reports whether a port of a pod goes by this name, meansAll whether each of
// these pods has a port of this name, protocol and number.
func (n NamedPort) means(pod *Pod, port ContainerPort, node string) bool {
	return n.Name == port.Name && (n.Protocol == 0 || n.Protocol == port.Protocol) && (n.Scope == Cluster || pod.Node == node)
}

func (n NamedPort) meansAll(pods []*Pod, port ContainerPort, node string) bool {
	return !slices.ContainsFunc(pods, func(pod *Pod) bool {
		return !n.means(pod, port, node) || !slices.Contains(pod.Ports, port)
	})
}

// has reports whether a pod is among those that have an address.
func (m *Model) has(pod *Pod, ip netip.Addr) bool { return slices.Contains(m.holders(ip), pod) }

// here are the addresses of a pod of this node that are its own, perhaps together with
// another's.
func (m *Model) here(pod *Pod) (ips []netip.Addr) {
	if pod.Node != m.node {
		return nil
	}
	for _, ip := range pod.IPs {
		if m.has(pod, ip) {
			ips = append(ips, ip)
		}
	}
	return ips
}

// claim adds a pod to those that claim an address; disclaim removes it.
func (m *Model) claim(ip netip.Addr, pod *Pod) {
	m.claims[ip] = append(slices.Clip(m.claims[ip]), pod)
}

func (m *Model) disclaim(ip netip.Addr, pod *Pod) {
	claims := slices.DeleteFunc(slices.Clone(m.claims[ip]), func(p *Pod) bool { return p == pod })
	if len(claims) == 0 {
		delete(m.claims, ip)
	} else {
		m.claims[ip] = claims
	}
}

// united are the addresses of both lists, each once. The lists are in order.
func united(a, b []netip.Addr) []netip.Addr {
	if len(b) == 0 || slices.Equal(a, b) {
		return a
	}
	if len(a) == 0 {
		return b
	}
	all := slices.Concat(a, b)
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}
