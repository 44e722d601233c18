package generate

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// end is one end of a connection: a pod, a node, or an address outside the cluster.
type end struct {
	pod  policy.Key // zero: it is none
	node string     // the name of the node that has the address; empty: it is no node's
	addr netip.Addr
}

func (e end) isPod() bool { return e.pod != policy.Key{} }

// end finds out who is at an end of a flow, or why nobody can tell. What the flow says of it comes first, as it is
// from the time of the flow: the address may be another's by now.
func (g *generator) end(e *flows.Endpoint) (end, Reason) {
	out := end{addr: e.IP.Unmap()}
	if !out.addr.IsValid() {
		return end{}, NoAddress
	}
	switch {
	case e.Pod != "":
		return g.podEnd(policy.Key{Namespace: e.Namespace, Name: e.Pod}, out.addr)
	case e.Node != "":
		out.node = e.Node
		return out, ""
	}
	holder := g.explainer.Holder(out.addr)
	switch {
	case len(holder.Pods) > 1:
		return end{}, SharedAddress
	case len(holder.Pods) == 1:
		return g.podEnd(policy.Key{Namespace: holder.Pods[0].Namespace, Name: holder.Pods[0].Name}, out.addr)
	case holder.OnNode:
		out.node = holder.Node
	case g.explainer.ServiceAt(out.addr) != nil:
		return end{}, ServiceAddress
	case holder.Node != "":
		return end{}, UnknownPod
	}
	return out, ""
}

// podEnd is the end that a pod is. One that is on its node's network is the node.
func (g *generator) podEnd(key policy.Key, addr netip.Addr) (end, Reason) {
	pod := g.podOf(key)
	switch {
	case !g.namespaces[key.Namespace] || pod == nil:
		return end{}, UnknownPod
	case pod.Spec.HostNetwork:
		return end{node: pod.Spec.NodeName, addr: addr}, ""
	}
	return end{pod: key, addr: addr}, ""
}

// podOf is a pod of the cluster, or one that was seen and is gone.
func (g *generator) podOf(key policy.Key) *corev1.Pod { return cmp.Or(g.pods[key], g.gone[key]) }

// sighting is what flows say of a pod that is not in the cluster.
type sighting struct {
	key policy.Key
	of  *flows.Endpoint
	// text orders what flows say, so that their order makes no difference where it changes.
	text string
	// nodes are those that have seen it, by connection. The pod's own node sees all of them.
	nodes map[tuple]map[string]bool
}

// findGone finds the pods that flows have and the cluster has not, as those of a Job that has ended.
func (g *generator) findGone(all []*flows.Flow) {
	seen := map[policy.Key]*sighting{}
	for _, f := range all {
		if !passed(f) {
			continue
		}
		for _, e := range []*flows.Endpoint{&f.Source, &f.Destination} {
			key := policy.Key{Namespace: e.Namespace, Name: e.Pod}
			if e.Pod == "" || g.pods[key] != nil {
				continue
			}
			s := seen[key]
			if s == nil {
				s = &sighting{key: key, nodes: map[tuple]map[string]bool{}}
				seen[key] = s
			}
			if text := fmt.Sprint(e.Labels, e.Workload != nil, e.Workload); s.of == nil || text > s.text {
				s.of, s.text = e, text
			}
			at := tupleOf(f)
			if s.nodes[at] == nil {
				s.nodes[at] = map[string]bool{}
			}
			s.nodes[at][f.Node] = true
		}
	}
	for key, s := range seen {
		g.gone[key] = g.remembered(s)
	}
}

// remembered is a pod as flows tell of it.
func (g *generator) remembered(s *sighting) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.key.Namespace, Name: s.key.Name, Labels: maps.Clone(s.of.Labels)}}
	pod.Spec.NodeName = s.node()
	ownedBy := func(owner explain.Object) {
		controls := true
		pod.OwnerReferences = []metav1.OwnerReference{{Kind: owner.Kind, Name: owner.Name, Controller: &controls}}
	}
	if owner := g.ownerOf(s); owner != (explain.Object{}) {
		ownedBy(owner)
		ownedBy(g.workloadOf(pod)) // the Job may be gone as well
	}
	return pod
}

// node is the one node that has seen all connections of a pod; empty if there are several, as of two nodes one may
// be that of the other ends.
func (s *sighting) node() string {
	var all map[string]bool
	for _, nodes := range s.nodes {
		if all == nil {
			all = maps.Clone(nodes)
			continue
		}
		maps.DeleteFunc(all, func(node string, _ bool) bool { return !nodes[node] })
	}
	if len(all) != 1 {
		return ""
	}
	return slices.Collect(maps.Keys(all))[0]
}

// ownerOf is the workload that a pod belonged to: as its flows say, or else the only one that selects it.
func (g *generator) ownerOf(s *sighting) (owner explain.Object) {
	if w := s.of.Workload; w != nil {
		return explain.Object{Kind: w.Kind, Namespace: s.key.Namespace, Name: w.Name}
	}
	found := 0
	for of, by := range g.cluster.Selectors {
		selector, err := metav1.LabelSelectorAsSelector(by)
		if err == nil && of.Namespace == s.key.Namespace && !selector.Empty() && selector.Matches(labels.Set(s.of.Labels)) {
			owner, found = of, found+1
		}
	}
	if found != 1 {
		return explain.Object{}
	}
	return owner
}
