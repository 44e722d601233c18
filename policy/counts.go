package policy

import (
	"cmp"
	"fmt"
	"slices"
)

// Counts says how much there is of what a node enforces.
type Counts struct {
	// Pods is how many of this node's pods have addresses here. Isolated is how many of these
	// are selected by a policy, or have labels that are not known.
	Pods, Isolated int
	// Policies is how many there are in the cluster. Active is how many of these select one of
	// Pods.
	Policies, Active int
}

// Counts counts. It takes time in proportion to the namespaces, policies and this node's pods.
func (m *Model) Counts() (c Counts) {
	for _, ns := range m.namespaces {
		c.Pods += len(ns.subjects)
		for key, by := range ns.subjects {
			if len(by) > 0 || m.pod(key).Unread {
				c.Isolated++
			}
		}
		c.Policies += len(ns.policies)
		for _, s := range ns.policies {
			if s.subjects > 0 {
				c.Active++
			}
		}
	}
	return c
}

// Taken is what the policies of a namespace take of the node.
type Taken struct {
	// Namespace is empty for all ClusterNetworkPolicies together.
	Namespace string
	// Elements is how many members the selectors and port names of the policies have; Objects
	// is how many sets and rules the policies take.
	Elements, Objects int
}

func (t Taken) String() string {
	if t.Namespace == "" {
		t.Namespace = "ClusterNetworkPolicies"
	}
	return fmt.Sprintf("%s (%d elements, %d sets and rules)", t.Namespace, t.Elements, t.Objects)
}

// Most are the n namespaces whose policies take most, the one that takes most first.
func (m *Model) Most(n int) []Taken {
	var all []Taken
	for name, ns := range m.namespaces {
		if ns.cost() > 0 {
			all = append(all, Taken{name, ns.elements, ns.objects})
		}
	}
	slices.SortFunc(all, func(a, b Taken) int {
		return cmp.Or(cmp.Compare(b.Elements+objectCost*b.Objects, a.Elements+objectCost*a.Objects), cmp.Compare(a.Namespace, b.Namespace))
	})
	return all[:min(n, len(all))]
}
