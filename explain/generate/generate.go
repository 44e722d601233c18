package generate

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// Generate writes policies for a cluster by what was seen, and holds them against it: the report says what would
// not pass any more, and what still would though nobody has used it. Policies that are in the cluster already count
// for the report alone, so that what is generated is whole without them.
//
// Nothing of the cluster or the flows is changed.
func Generate(c *explain.Cluster, seen Seen, o Options) *Result {
	g := newGenerator(c, o)
	g.report.take(seen)
	g.findGone(seen.Flows)
	for _, f := range seen.Flows {
		g.add(f)
	}
	g.noteSample(seen.Flows)
	g.units = g.makeUnits()
	g.gatherNeeds()
	policies := g.policies()
	after := g.after(policies)
	g.check(after)
	g.findOpen(after, policies)
	return &Result{Policies: policies, Report: g.report}
}

// generator is what one call of Generate knows.
type generator struct {
	options    Options
	cluster    *explain.Cluster
	explainer  *explain.Explainer
	namespaces map[string]bool
	pods       map[policy.Key]*corev1.Pod
	workloads  map[explain.Object]bool
	// gone are pods that flows have and the cluster has not, as far as the flows tell of them.
	gone        map[policy.Key]*corev1.Pod
	connections map[pairing]*connection
	units       []*unit
	unitOf      map[policy.Key]*unit
	dns         dns
	report      Report
}

func newGenerator(c *explain.Cluster, o Options) *generator {
	g := &generator{
		options: o, cluster: c, explainer: explain.New(c, o.Judge),
		namespaces: map[string]bool{}, pods: map[policy.Key]*corev1.Pod{}, workloads: map[explain.Object]bool{},
		gone: map[policy.Key]*corev1.Pod{}, connections: map[pairing]*connection{}, unitOf: map[policy.Key]*unit{},
	}
	for _, ns := range c.Namespaces {
		g.namespaces[ns.Name] = true
	}
	for _, pod := range c.Pods {
		g.pods[policy.Key{Namespace: pod.Namespace, Name: pod.Name}] = pod
	}
	for _, w := range c.Workloads {
		g.workloads[explain.Object{Kind: w.Kind, Namespace: w.Namespace, Name: w.Name}] = true
	}
	return g
}

// writes reports whether policies are written for a namespace.
func (g *generator) writes(namespace string) bool {
	return len(g.options.Namespaces) == 0 || slices.Contains(g.options.Namespaces, namespace)
}
