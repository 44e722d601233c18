package policy

// Counts says how much there is of what a node enforces.
type Counts struct {
	// Pods are this node's pods that have addresses here, Isolated those of them that a
	// policy selects.
	Pods, Isolated int
	// Policies are all of the cluster's, Active those that select one of Pods.
	Policies, Active int
}

// Counts counts, in the order of the namespaces, policies and this node's pods.
func (m *Model) Counts() (c Counts) {
	for _, ns := range m.namespaces {
		c.Pods += len(ns.subjects)
		for _, by := range ns.subjects {
			if len(by) > 0 {
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
