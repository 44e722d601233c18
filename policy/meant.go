package policy

import (
	"net/netip"
	"slices"
	"strings"
)

// meant are the addresses of the pods that a selector means. The slice is valid until the next
// call. If byLabel has the pods with the labels that the selector asks for, only these pods are
// looked at.
func (m *Model) meant(g *peers, byLabel map[string][]*Pod) (ips []netip.Addr) {
	ips = m.found[:0]
	defer func() { m.found = ips[:0] }()
	if g.OfNodes {
		return append(ips, m.nodesMeant(g)...)
	}
	look := func(pod *Pod, object *Namespace) {
		if !g.matches(pod, object) {
			return
		}
		for _, ip := range pod.IPs {
			// The first of several that have it speaks for all.
			holders := m.holders(ip)
			if len(holders) > 0 && holders[0] == pod && (len(holders) == 1 || m.allMatch(g, holders)) {
				ips = append(ips, ip)
			}
		}
	}
	asked := g.asks()
	if len(asked) > 0 && g.Namespace == "" && !slices.ContainsFunc(asked, func(label string) bool { _, indexed := byLabel[label]; return !indexed }) {
		seen := map[*Pod]struct{}{} // a pod may have several of the labels
		for _, label := range asked {
			for _, pod := range byLabel[label] {
				if _, done := seen[pod]; !done {
					seen[pod] = struct{}{}
					look(pod, m.in(pod.Namespace).object)
				}
			}
		}
		return ips
	}
	wanted := g.wanted()
	for name, ns := range m.namespaces {
		if !g.inNamespace(name, ns.object) {
			continue
		}
		for _, pod := range ns.pods {
			if wanted == nil || wanted.oneOf(pod.Labels) {
				look(pod, ns.object)
			}
		}
	}
	return ips
}

// endpoints are the ports of pods that go by a name.
func (m *Model) endpoints(name NamedPort) (endpoints []Endpoint) {
	look := func(pod *Pod) {
		for _, port := range pod.Ports {
			if !name.means(pod, port, m.node) {
				continue
			}
			for _, ip := range pod.IPs {
				if holders := m.holders(ip); len(holders) > 0 && holders[0] == pod && name.meansAll(holders, port, m.node) {
					endpoints = append(endpoints, Endpoint{Addr: ip, Protocol: port.Protocol, Port: port.Number})
				}
			}
		}
	}
	for _, ns := range m.namespaces {
		if name.Scope == Local { // subjects are all of the node's pods that have an address
			for key := range ns.subjects {
				look(ns.pods[key.Name])
			}
			continue
		}
		for _, pod := range ns.pods {
			look(pod)
		}
	}
	return endpoints
}

// podsByLabel are, for each label or key of a label that a selector not yet handed out asks
// for, the pods that have it. At the start no selector is handed out, and to ask each of
// them about each pod would take seconds.
func (m *Model) podsByLabel() map[string][]*Pod {
	pods := map[string][]*Pod{}
	for g := range m.changedPeers {
		if g.fresh && g.Namespace == "" && !g.OfNodes {
			g.prepare()
			for _, asked := range g.asks() {
				pods[asked] = nil
			}
		}
	}
	add := func(asked string, pod *Pod) {
		if of, is := pods[asked]; is {
			pods[asked] = append(of, pod)
		}
	}
	for _, ns := range m.namespaces {
		for _, pod := range ns.pods {
			if len(pods) == 0 {
				return pods
			}
			for key, value := range pod.Labels.All() {
				add(key, pod)
				add(key+"="+value, pod)
			}
		}
	}
	return pods
}

// wanted are labels by key and value; no values: any.
type wanted map[string]map[string]struct{}

// wanted are labels such that every pod that the selector means has one of them. It is nil if
// the selector has only one alternative, or if no such labels are known.
func (g *peers) wanted() wanted {
	asked := g.asks()
	if len(asked) < 2 {
		return nil
	}
	w := wanted{}
	for _, label := range asked {
		key, value, exact := strings.Cut(label, "=")
		switch values, is := w[key]; {
		case !exact:
			w[key] = nil
		case is && values == nil:
		case is:
			values[value] = struct{}{}
		default:
			w[key] = map[string]struct{}{value: {}}
		}
	}
	return w
}

// oneOf reports whether one of the labels is wanted.
func (w wanted) oneOf(labels Labels) bool {
	for key, value := range labels.All() {
		if values, is := w[key]; is {
			if _, has := values[value]; has || values == nil {
				return true
			}
		}
	}
	return false
}

// looks is how often a pod is looked at to see whether the selector means it.
func (g *peers) looks() int {
	if g.asks() != nil {
		return min(len(g.matchers), 2)
	}
	return len(g.matchers)
}
