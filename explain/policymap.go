package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
)

// MaxMapEdges is how many edges a Map has at most. What is more than that, nobody can see.
const MaxMapEdges = 4000

// Atlas is a cluster that was gone over once, so that any number of maps can be drawn of it, each in a moment. It may
// be used by several goroutines at once, which wait for each other.
type Atlas struct {
	mu      sync.Mutex
	x       *Explainer
	survey  *survey
	members []member
	// views are those of the first of each class of each member, which stand for the others.
	views [][][]*view
	// known is what was found to be open at a port, or at any, between nodes that were on a map.
	known map[Port]map[[2]string]mapOpening
}

// mostPorts is of how many ports an Atlas remembers what is open.
const mostPorts = 8

// mapOpening is whether something is open between two members, and whether only as no policy is about either.
type mapOpening struct{ open, unfenced bool }

// Atlas goes over the cluster.
func (x *Explainer) Atlas() *Atlas {
	s := newSurvey(x)
	a := &Atlas{x: x, survey: s, members: s.everybody(x.cluster.Pods), known: map[Port]map[[2]string]mapOpening{}}
	for _, m := range a.members {
		views := make([][]*view, len(m.classes))
		for i, c := range m.classes {
			views[i] = a.viewsOf(c.units[0])
		}
		a.views = append(a.views, views)
	}
	return a
}

// MapQuery is what a Map is to show.
type MapQuery struct {
	// Open are the namespaces whose workloads are shown one by one.
	Open []string
	// Port: only what is open at this port is an edge. Its zero value means any. It has no name.
	Port Port
	// Unfenced: also what is open because no policy is about either end is an edge.
	Unfenced bool
	// Focus is a node's ID: only its edges are wanted.
	Focus string
}

// Map is who may talk to whom, to be drawn: namespaces, the workloads of those that are open, and what is outside.
type Map struct {
	Nodes []MapNode `json:"nodes"`
	Edges []MapEdge `json:"edges"`
	// Unfenced is how many pairs of nodes are open only because no policy is about either. They are edges if that
	// was asked for.
	Unfenced int `json:"unfenced"`
	// TooMany is how many edges there would be, if they are more than MaxMapEdges; there are none then.
	TooMany int `json:"tooMany,omitempty"`
}

// MapNode is a namespace, or a party as of a ReachMatrix.
type MapNode struct {
	// ID is what people write: "ns/shop", or a Party's text.
	ID string `json:"id"`
	// Kind is Namespace or a Party's.
	Kind      Kind              `json:"kind"`
	Namespace string            `json:"namespace,omitempty"`
	Name      string            `json:"name,omitempty"`
	Network   string            `json:"network,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	// Workloads is how many a namespace has, Pods how many pods with an address there are, or nodes.
	Workloads int `json:"workloads,omitempty"`
	Pods      int `json:"pods"`
	// IngressIsolated and EgressIsolated are how many of the pods NetworkPolicies isolate.
	IngressIsolated int `json:"ingressIsolated"`
	EgressIsolated  int `json:"egressIsolated"`
	// Policies are how many NetworkPolicies a namespace has, and Staged how many of them are not in force.
	Policies int `json:"policies,omitempty"`
	Staged   int `json:"staged,omitempty"`
}

// MapEdge says that something is open from one node to another.
type MapEdge struct {
	From string `json:"from"`
	To   string `json:"to"`
	// Ports are what is open, and Partly says that it is so for some of the pods only. Both are said where each end is
	// one party.
	Ports  string `json:"ports,omitempty"`
	Partly bool   `json:"partly,omitempty"`
	// Unfenced: it is open only because no policy is about either end.
	Unfenced bool `json:"unfenced,omitempty"`
}

// Map draws a map. The error says that there is no such namespace or node, or that the port has a name.
func (a *Atlas) Map(q MapQuery) (*Map, error) {
	if q.Port.Name != "" {
		return nil, fmt.Errorf("port %s is a name: a map takes numbers, such as 443/TCP", q.Port.Name)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range q.Open {
		if a.x.namespaces[name] == nil && !slices.ContainsFunc(a.members, func(m member) bool { return m.Namespace == name }) {
			return nil, unknown(KindNamespace, name)
		}
	}
	d := a.draw(q)
	if q.Focus != "" && !slices.ContainsFunc(d.Nodes, func(n MapNode) bool { return n.ID == q.Focus }) {
		return nil, fmt.Errorf("%s is not on the map", q.Focus)
	}
	a.connect(d, q)
	return &d.Map, nil
}

// Reach is Explainer.Reach, without going over the cluster again.
func (a *Atlas) Reach(t Target) (*Reach, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.x.reach(a.survey, a.members, t)
}

// Ask is whom Explain can be asked about for a network or the nodes of a map: an address in the network, or one of the
// nodes. False: it is neither, and ParseTarget reads what else a map and a matrix have.
func (a *Atlas) Ask(id string) (Target, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.members {
		if (m.Kind == KindNetwork || m.Kind == KindNodes) && m.String() == id {
			e := m.classes[0].units[0][0]
			if m.Kind == KindNodes {
				return Target{Kind: KindNode, Name: e.Name}, true
			}
			return Target{Kind: KindAddress, Address: e.Address}, true
		}
	}
	return Target{}, false
}

// drawing is a Map, and which members each of its nodes stands for.
type drawing struct {
	Map
	members [][]int
	// container: the node is an open namespace, whose workloads have the edges.
	container []bool
}

// draw makes the nodes.
func (a *Atlas) draw(q MapQuery) *drawing {
	d := &drawing{Map: Map{Nodes: []MapNode{}, Edges: []MapEdge{}}}
	at := map[string]int{}
	namespace := func(name string) *MapNode {
		i, has := at[name]
		if !has {
			i = len(d.Nodes)
			at[name] = i
			n := MapNode{ID: "ns/" + name, Kind: KindNamespace, Namespace: name, Name: name}
			if ns := a.x.namespaces[name]; ns != nil {
				n.Labels = ns.Labels
			}
			for _, np := range a.x.policies[name] {
				n.Policies++
				if a.x.staged[keyOf(np)] {
					n.Staged++
				}
			}
			d.add(n, slices.Contains(q.Open, name))
		}
		return &d.Nodes[i]
	}
	for _, ns := range slices.SortedFunc(slices.Values(a.x.cluster.Namespaces), func(a, b *corev1.Namespace) int { return cmp.Compare(a.Name, b.Name) }) {
		namespace(ns.Name)
	}
	for i, m := range a.members {
		in, out := a.isolated(m)
		if m.Namespace != "" {
			of := namespace(m.Namespace)
			of.Workloads++
			of.Pods += m.Size
			of.IngressIsolated += in
			of.EgressIsolated += out
			if !d.container[at[m.Namespace]] {
				d.members[at[m.Namespace]] = append(d.members[at[m.Namespace]], i)
				continue
			}
		}
		n := MapNode{ID: m.String(), Kind: m.Kind, Namespace: m.Namespace, Name: m.Name, Pods: m.Size, IngressIsolated: in, EgressIsolated: out}
		if m.Kind == KindNetwork {
			n.Network = m.Network.String()
		}
		d.add(n, false, i)
	}
	return d
}

func (d *drawing) add(n MapNode, container bool, members ...int) {
	d.Nodes, d.members, d.container = append(d.Nodes, n), append(d.members, members), append(d.container, container)
}

// isolated is how many pods of a member NetworkPolicies isolate for ingress and for egress.
func (a *Atlas) isolated(m member) (ingress, egress int) {
	for _, c := range m.classes {
		if addrs := c.units[0][0].addrs; c.units[0][0].pod != nil && len(addrs) > 0 {
			v := a.survey.view(0, addrs[0])
			if len(v.to.policies) > 0 {
				ingress += len(c.units)
			}
			if len(v.from.policies) > 0 {
				egress += len(c.units)
			}
		}
	}
	return ingress, egress
}

// connect makes the edges.
func (a *Atlas) connect(d *drawing, q MapQuery) {
	known := a.known[q.Port]
	if known == nil {
		if len(a.known) >= mostPorts {
			clear(a.known)
		}
		known = map[[2]string]mapOpening{}
		a.known[q.Port] = known
	}
	for i, from := range d.Nodes {
		for j, to := range d.Nodes {
			if d.container[i] || d.container[j] || q.Focus != "" && from.ID != q.Focus && to.ID != q.Focus {
				continue
			}
			key := [2]string{from.ID, to.ID}
			o, is := known[key]
			if !is {
				o = a.anyOpen(d.members[i], d.members[j], q.Port)
				known[key] = o
			}
			if !o.open {
				continue
			}
			if o.unfenced {
				d.Unfenced++
				if !q.Unfenced {
					continue
				}
			}
			d.Edges = append(d.Edges, MapEdge{From: from.ID, To: to.ID, Unfenced: o.unfenced})
		}
	}
	if len(d.Edges) > MaxMapEdges {
		d.TooMany, d.Edges = len(d.Edges), []MapEdge{}
		return
	}
	a.label(d)
}

// anyOpen reports whether something is open from one of some members to one of others, and whether that is so only
// between those that no policy is about.
func (a *Atlas) anyOpen(from, to []int, at Port) (all mapOpening) {
	for _, i := range from {
		for _, j := range to {
			if beyond(a.members[i].Party) && beyond(a.members[j].Party) || i == j && a.members[i].Size < 2 {
				continue // no policy of a pod is about it
			}
			switch o := a.open(i, j, at); {
			case o.open && !o.unfenced:
				return o
			case o.open:
				all = o
			}
		}
	}
	return all
}

// beyond reports whether a party has no pods.
func beyond(p Party) bool { return p.outside() || p.Kind == KindNodes }

// open finds out whether anything is open between any pods of two members.
func (a *Atlas) open(i, j int, at Port) (all mapOpening) {
	for x, from := range a.members[i].classes {
		for y, to := range a.members[j].classes {
			if !from.host && !to.host && i != j { // any pair of units stands for all
				if o := a.ways(a.views[i][x], a.views[j][y], at); o.open && !o.unfenced {
					return o
				} else if o.open {
					all = o
				}
				continue
			}
			for _, pair := range samples(from, to) {
				if o := a.ways(a.viewsOf(pair.from), a.viewsOf(pair.to), at); o.open && !o.unfenced {
					return o
				} else if o.open {
					all = o
				}
			}
		}
	}
	return all
}

// viewsOf are the views of all addresses of a unit.
func (a *Atlas) viewsOf(u unit) []*view {
	views := make([]*view, len(u[0].addrs))
	for i, addr := range u[0].addrs {
		views[i] = a.survey.view(0, addr)
	}
	return views
}

// ways reports whether anything is open from one of some addresses to one of others.
func (a *Atlas) ways(from, to []*view, at Port) (all mapOpening) {
	for _, src := range from {
		for _, dst := range to {
			if src.addr.Is4() != dst.addr.Is4() {
				continue
			}
			unfenced := len(src.from.policies)+len(src.from.cluster)+len(dst.to.policies)+len(dst.to.cluster) == 0
			switch {
			case unfenced && src.plain() && dst.plain(), a.x.crossing(src, dst).passes(at):
				if all = (mapOpening{true, unfenced}); !unfenced {
					return all
				}
			}
		}
	}
	return all
}

// plain reports whether nobody else has the address of a pod, or nobody at all.
func (v *view) plain() bool { return v.plainPod || v.outside }

// passes reports whether a port is open or, if none is given, any; or nobody knows.
func (c crossing) passes(at Port) bool {
	if at == (Port{}) {
		open, unknown := c.open()
		return len(open)+len(unknown) > 0
	}
	return !c.closed && c.verdict(at.Protocol, at.Number).both != Denied
}

// label adds the ports to edges between single parties.
func (a *Atlas) label(d *drawing) {
	at := map[string]int{}
	for i, n := range d.Nodes {
		at[n.ID] = i
	}
	for i := range d.Edges {
		e := &d.Edges[i]
		from, to := at[e.From], at[e.To]
		if d.Nodes[from].Kind == KindNamespace || d.Nodes[to].Kind == KindNamespace {
			continue
		}
		var texts []string
		for _, o := range a.survey.openings(a.members[d.members[from][0]], a.members[d.members[to][0]]) {
			if o.closed() {
				continue
			}
			e.Partly = e.Partly || o.Partly
			o.Partly = false
			if text := o.portsText(); !slices.Contains(texts, text) {
				texts = append(texts, text)
			}
		}
		e.Ports = strings.Join(texts, "; ")
	}
}
