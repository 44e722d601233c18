package policy

import (
	"cmp"
	"fmt"
	"slices"
)

// Counts says how much there is of what a node enforces.
type Counts struct {
	// Pods are this node's pods that have addresses here, Isolated those of them that a
	// policy selects, or whose labels are not known.
	Pods, Isolated int
	// Policies are all of the cluster's, Active those that select one of Pods.
	Policies, Active int
}

// Counts counts, in the order of the namespaces, policies and this node's pods.
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
	Namespace string
	// Elements are members of what they name, Objects sets and rules.
	Elements, Objects int
}

func (t Taken) String() string {
	return fmt.Sprintf("%s (%d elements, %d sets and rules)", t.Namespace, t.Elements, t.Objects)
}

// Most are the n namespaces whose policies take most, the first of all first.
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
