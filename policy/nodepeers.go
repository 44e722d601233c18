package policy

import (
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"
)

// A selector of nodes means the addresses that the selected Nodes show as their own, but none that a
// pod is known to have: a Node may show any address.

// nodePeers is what is known of nodes as peers.
type nodePeers struct {
	// listers are the Nodes that show an address as their own.
	listers map[netip.Addr][]string
	// followed are the selectors of nodes of which changes are noted.
	followed map[*peers]labels.Selector
}

func newNodePeers() nodePeers {
	return nodePeers{listers: map[netip.Addr][]string{}, followed: map[*peers]labels.Selector{}}
}

// listing notes that a Node shows these addresses, in place of those that it has shown before.
func (n *nodePeers) listing(name string, before, now []netip.Addr) {
	for _, ip := range before {
		if n.listers[ip] = slices.DeleteFunc(slices.Clone(n.listers[ip]), func(lister string) bool { return lister == name }); len(n.listers[ip]) == 0 {
			delete(n.listers, ip)
		}
	}
	for _, ip := range now {
		n.listers[ip] = append(slices.Clip(n.listers[ip]), name)
	}
}

// nodesMeant are the addresses that a selector of nodes means.
func (m *Model) nodesMeant(g *peers) (ips []netip.Addr) {
	selector := parseCanonical(g.Nodes)
	for ip := range m.listers {
		if m.meansNode(selector, ip) {
			ips = append(ips, ip)
		}
	}
	return ips
}

// meansNode reports whether a selector of nodes means an address.
func (m *Model) meansNode(selector labels.Selector, ip netip.Addr) bool {
	return len(m.holders(ip)) == 0 && slices.ContainsFunc(m.listers[ip], func(name string) bool { return selector.Matches(m.nodes[name].Labels) })
}

// nodesMeaning are the followed selectors that mean an address as a node's.
func (m *Model) nodesMeaning(ip netip.Addr) (meaning []*peers) {
	if len(m.listers[ip]) == 0 {
		return nil
	}
	for g, selector := range m.followed {
		if m.meansNode(selector, ip) {
			meaning = append(meaning, g)
		}
	}
	return meaning
}

// nodeMoved notes which selectors of nodes mean an address now that did not before, and which do not
// any more.
func (m *Model) nodeMoved(ip netip.Addr, before, after []*peers) {
	for _, g := range before {
		if !slices.Contains(after, g) {
			m.toggle(g, ip, false)
		}
	}
	for _, g := range after {
		if !slices.Contains(before, g) {
			m.toggle(g, ip, true)
		}
	}
}
