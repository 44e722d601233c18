package policy

import (
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/api/v1alpha1"
)

// The agent of a node knows a pod's address before the API shows it, and announces it in an object
// of its own (v1alpha1.PodAddresses). The agents of other nodes take an announced address as if
// status.podIPs showed it, until that shows addresses of its own. It counts for nothing
//
//   - unless the pod is bound to the node whose agent says it, and is the one of that UID;
//   - unless that node is known, and has the address in its pod ranges, if it has any;
//   - if there are two announcements for the pod;
//   - on the pod's own node, whose agent has the attachments.
//
// In all else, the address is one that the API shows for a pod of another node (owners.go): none of
// this node's own ranges, and shared where two pods have it.

// announcement is what a node's agent has announced of one pod.
type announcement struct {
	Pod Key
	UID types.UID
	// IPs are the pod's addresses, in order.
	IPs []netip.Addr
	// Supersedes are the addresses, in order, that the API showed of the pod when it was given
	// IPs. The announcement counts while the API shows these, or none.
	Supersedes []netip.Addr
}

// announcementsOf reads what an agent has announced. What cannot be read is left out.
func announcementsOf(o *v1alpha1.PodAddresses) (all []announcement) {
	for _, said := range o.Pods {
		ips, ok := parseAddrs(said.IPs)
		superseded, alsoOK := parseAddrs(said.Supersedes)
		if ok && alsoOK && len(ips) > 0 && said.UID != "" {
			all = append(all, announcement{Pod: Key{Namespace: said.Namespace, Name: said.Name}, UID: said.UID, IPs: ips, Supersedes: superseded})
		}
	}
	return all
}

// parseAddrs reads addresses, and returns them in order.
func parseAddrs(texts []string) (ips []netip.Addr, ok bool) {
	for _, text := range texts {
		ip, ok := parseAddr(text)
		if !ok {
			return nil, false
		}
		ips = append(ips, ip)
	}
	return sortedAddrs(ips), true
}

// announce returns the pod with the addresses that its node's agent has announced, in place of those
// that the API shows, if the announcement counts. said is what that agent has announced, and node is
// the pod's Node as it is known, nil if it is not. unranged says that pods have their addresses from
// elsewhere than the Nodes' ranges.
func (p *Pod) announce(said []announcement, node *Node, unranged bool) *Pod {
	at := slices.IndexFunc(said, p.isMeantBy)
	if at < 0 || node == nil || slices.ContainsFunc(said[at+1:], p.isMeantBy) {
		return p
	}
	a := said[at]
	if len(p.IPs) > 0 && !slices.Equal(p.IPs, a.Supersedes) || slices.Equal(p.IPs, a.IPs) {
		return p
	}
	outside := func(ip netip.Addr) bool { return !contains(node.PodCIDRs, ip) }
	if !unranged && len(node.PodCIDRs) > 0 && slices.ContainsFunc(a.IPs, outside) {
		return p
	}
	announced := *p
	announced.located, announced.IPs = true, a.IPs
	return &announced
}

// isMeantBy reports whether an announcement is about this very pod.
func (p *Pod) isMeantBy(a announcement) bool { return a.Pod == p.Key && p.IsOf(a.UID) }

// setAnnouncements takes in all that the agent of a node announces, in place of what it has
// announced before.
func (m *Model) setAnnouncements(node string, all []announcement) {
	if node == m.node {
		return
	}
	before := m.announced[node]
	now := map[Key][]announcement{}
	for _, a := range all {
		now[a.Pod] = append(now[a.Pod], a)
	}
	if delete(m.announced, node); len(now) > 0 {
		m.announced[node] = now
	}
	for key := range before {
		if now[key] == nil {
			m.relocate(key)
		}
	}
	for key := range now {
		m.relocate(key)
	}
}

// relocateAnnounced works out anew the addresses of the pods that a node's agent has announced.
func (m *Model) relocateAnnounced(node string) {
	for key := range m.announced[node] {
		m.relocate(key)
	}
}

// locate returns the pod with the addresses that it has, as far as this node can tell: those of its
// attachments, those that its node's agent has announced, or those that the API shows.
func (m *Model) locate(p *Pod) *Pod {
	if p.Node == m.node {
		return p.attach(m.attachments[p.Key], m.node)
	}
	said := m.announced[p.Node][p.Key]
	if len(said) == 0 {
		return p
	}
	var node *Node
	if n, known := m.nodes[p.Node]; known {
		node = &n
	}
	return p.announce(said, node, m.ignored)
}
