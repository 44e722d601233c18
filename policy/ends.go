package policy

import (
	"net/netip"
	"slices"
	"strings"
)

// Ends is what a node knows of the two ends of a packet: enough to say what policies say of it.
type Ends struct {
	Src, Dst End
	// Revision counts the changes of policies, namespaces and nodes that the model has taken in. If it is the
	// same and the pods are, so is what policies say.
	Revision uint64
}

// End is what a node knows of an address. Nobody may change it.
type End struct {
	// Pod has the address; nil: no pod is known to have it.
	Pod *Pod
	// Doubtful: a pod has the address, and nobody can tell which.
	Doubtful bool
	// Namespace is the pod's; nil: there is no pod, or its namespace is not known.
	Namespace *Namespace
	// Nodes show the address as their own, in the order of their names, also if a pod has it.
	Nodes []Node
	// ClusterPolicies are the ClusterNetworkPolicies that select the pod, in the order of their names, if it is
	// one of this node.
	ClusterPolicies []Key
}

// EndsOf is what is known of the two ends of a packet.
func (m *Model) EndsOf(src, dst netip.Addr) Ends {
	return Ends{Src: m.end(src), Dst: m.end(dst), Revision: m.revision}
}

func (m *Model) end(ip netip.Addr) (e End) {
	holders := m.holders(ip)
	if len(holders) > 1 || len(holders) == 0 && len(m.attached[ip]) > 0 {
		return End{Doubtful: true}
	}
	for _, name := range m.listers[ip] {
		e.Nodes = append(e.Nodes, m.nodes[name])
	}
	slices.SortFunc(e.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	if len(holders) == 0 {
		return e
	}
	e.Pod = holders[0]
	ns := m.namespaces[e.Pod.Namespace]
	if ns == nil {
		return e
	}
	e.Namespace = ns.object
	for _, by := range ns.subjects[e.Pod.Key] {
		if by.Tier != NetworkPolicyTier {
			e.ClusterPolicies = append(e.ClusterPolicies, by.Key)
		}
	}
	slices.SortFunc(e.ClusterPolicies, compareKey)
	return e
}

// SameAs reports whether nothing that policies say has changed since the other was asked for, of the same two
// addresses. It may say no though nothing has.
func (e Ends) SameAs(other Ends) bool {
	return e.Revision == other.Revision && e.Src.Pod == other.Src.Pod && e.Dst.Pod == other.Dst.Pod &&
		e.Src.Doubtful == other.Src.Doubtful && e.Dst.Doubtful == other.Dst.Doubtful
}
