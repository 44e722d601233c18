package manifests

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/policy/spelling"
)

// questionVersions are the kinds that are read for questions, and not to be enforced: what stands for pods
// before they run, and the Services that lead to them.
var questionVersions = map[string][]string{
	"Service":               {"v1"},
	"ReplicationController": {"v1"},
	"EndpointSlice":         {"discovery.k8s.io/v1"},
	"Deployment":            {"apps/v1"},
	"ReplicaSet":            {"apps/v1"},
	"StatefulSet":           {"apps/v1"},
	"DaemonSet":             {"apps/v1"},
	"Job":                   {"batch/v1"},
	"CronJob":               {"batch/v1"},
}

// removedVersions are those that Kubernetes had of these kinds, and removed. Old charts have them.
var removedVersions = []string{"extensions/v1beta1", "apps/v1beta1", "apps/v1beta2", "batch/v1beta1", "batch/v2alpha1", "discovery.k8s.io/v1alpha1", "discovery.k8s.io/v1beta1"}

// ofOtherVersion reports whether a kind that is read for questions alone is of a version that is not read, and
// that somebody has or had, so that it is passed over: of an API group that is not Kubernetes', as a Service
// of serving.knative.dev, or of a version that Kubernetes has removed. Any other version is a slip.
func ofOtherVersion(kind, version string) bool {
	read, is := questionVersions[kind]
	if !is || slices.Contains(read, version) {
		return false
	}
	group, _, _ := strings.Cut(version, "/")
	return slices.Contains(removedVersions, version) || !ofKubernetes(group)
}

// versionsOf are the apiVersions of a kind that is read.
func versionsOf(kind string, questions bool) (want []string, read bool) {
	if want, read = versions[kind]; read || !questions {
		return want, read
	}
	want, read = questionVersions[kind]
	return want, read
}

// resembles reports whether a kind that is not read may be meant for one that is enforced: to pass over such
// an object could open what its author means to close. In the API groups of Kubernetes, and in one that is
// spelt nearly as one of those, it is a name that is nearly such a kind's, or has "networkpolic" in it. Of
// the group of ClusterNetworkPolicy it is every kind, of others the same name.
func resembles(kind, version string) bool {
	group, _, _ := strings.Cut(version, "/")
	kind = strings.ToLower(kind)
	if group == clusterv1beta1.GroupName || ofKubernetes(group) && strings.Contains(kind, "networkpolic") {
		return true
	}
	for enforced := range versions {
		slip := min(len(enforced)/4, 2) // a Job is no Pod
		if off := spelling.Distance(kind, strings.ToLower(enforced)); off == 0 || ofKubernetes(group) && off <= max(slip, 1) {
			return true
		}
	}
	return false
}

// ofKubernetes reports whether an API group is one of Kubernetes' own, whose names have no dot or end in
// k8s.io, or may be meant for one that is read.
func ofKubernetes(group string) bool {
	if !strings.Contains(group, ".") || strings.HasSuffix(group, ".k8s.io") {
		return true
	}
	for _, of := range versions {
		for _, version := range of {
			if read, _, has := strings.Cut(version, "/"); has && spelling.Distance(group, read) <= 3 {
				return true
			}
		}
	}
	return false
}

// skip passes over a document of a kind that nobody reads, and counts it. If the reader is strict, that is a
// finding. So is a field of the document that comes twice: two objects without a line --- between them look
// so, and the second may be a policy.
func (r *reader) skip(file string, n *node, kind string) {
	report := r.finds(file, kind)
	if r.strict {
		report(n.lineOf("kind"), field.NewPath("kind"), fmt.Errorf("%w %q: %s", errNotRead, kind, r.reads()))
		return
	}
	seen := map[string]bool{}
	for _, m := range n.members {
		if seen[m.name] {
			report(m.line, field.NewPath(m.name), errors.New("it comes twice, as in two objects without a line --- between them"))
			return
		}
		seen[m.name] = true
	}
	r.out.Skipped[kind]++
}

var errNotRead = errors.New("podfence does not read kind")

// SkippedText says in a line what was passed over, for example "7 objects that podfence does not read: 5
// ConfigMap, 2 Secret". It is empty if nothing was.
func (o *Objects) SkippedText() string {
	total, texts := 0, []string{}
	for _, kind := range slices.Sorted(maps.Keys(o.Skipped)) {
		total += o.Skipped[kind]
		texts = append(texts, fmt.Sprintf("%d %s", o.Skipped[kind], kind))
	}
	switch total {
	case 0:
		return ""
	case 1:
		return "an object that podfence does not read: " + texts[0]
	}
	return fmt.Sprintf("%d objects that podfence does not read: %s", total, strings.Join(texts, ", "))
}
