package agent

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// nodeKnown fails if no Node has the name that the agent was given, because the agent would then
// fence no pod. Manifests need no Nodes, but if there are some, this one must be among them. Until
// all that there was at the start has been fed, it does not fail.
func (a *Agent) nodeKnown() error {
	if !a.Enforcer.HasSynced() {
		return nil
	}
	nodes := a.Enforcer.Nodes()
	if len(nodes) == 0 && a.options.API == nil {
		return nil
	}
	names := make([]string, len(nodes))
	for i, node := range nodes {
		names[i] = node.Name
	}
	if slices.Contains(names, a.options.Node) {
		return nil
	}
	return fmt.Errorf("no Node is named %q, so the pods of this one are not fenced: --node-name must be the name that kubectl get nodes shows%s", a.options.Node, suggestion(a.options.Node, names))
}

// suggested is how many names of Nodes are offered.
const suggested = 3

// suggestion names the Nodes that are most likely meant: those that differ in case or in
// the domain alone, then those that begin alike.
func suggestion(name string, names []string) string {
	if len(names) == 0 {
		return "; there are no Nodes"
	}
	host := func(name string) string {
		host, _, _ := strings.Cut(strings.ToLower(name), ".")
		return host
	}
	alike := func(other string) (n int) {
		a, b := strings.ToLower(name), strings.ToLower(other)
		if host(a) == host(b) {
			return len(a) + 1
		}
		for n < min(len(a), len(b)) && a[n] == b[n] {
			n++
		}
		return n
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(alike(b)-alike(a), strings.Compare(a, b)) })
	return fmt.Sprintf("; nearest of %d: %s", len(names), strings.Join(names[:min(len(names), suggested)], ", "))
}
