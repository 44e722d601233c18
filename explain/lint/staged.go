package lint

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// isStaged reports whether a policy is staged, by itself or by its Namespace.
func (l *linter) isStaged(w *written) bool {
	var annotations map[string]string
	if w.np != nil {
		annotations = w.np.Annotations
	} else {
		annotations = w.cnp.Annotations
	}
	staged, _ := policy.StagedBy(annotations)
	return staged || w.np != nil && l.world.staged[w.np.Namespace]
}

// enforcementValues finds policies and Namespaces whose annotation was to stage something, and does not, as its value
// is another.
func (l *linter) enforcementValues(c *explain.Cluster) {
	look := func(kind string, o metav1.Object) {
		if _, wrong := policy.StagedBy(o.GetAnnotations()); wrong != "" {
			l.found = append(l.found, Finding{
				Rule: EnforcementValue, Severity: Warning, Object: explain.Object{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()},
				Staged: kind == "NetworkPolicy" && l.world.staged[o.GetNamespace()], Path: "metadata.annotations[" + policy.EnforcementAnnotation + "]", Message: wrong,
			})
		}
	}
	for _, np := range c.Policies {
		look("NetworkPolicy", np)
	}
	for _, cnp := range c.ClusterPolicies {
		look("ClusterNetworkPolicy", cnp)
	}
	for _, ns := range c.Namespaces {
		look("Namespace", ns)
	}
}
