package manifests

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
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

// versionsOf are the apiVersions of a kind that is read.
func versionsOf(kind string, questions bool) (want []string, read bool) {
	if want, read = versions[kind]; read || !questions {
		return want, read
	}
	want, read = questionVersions[kind]
	return want, read
}

// resembles reports whether a kind that is not read may be meant for one that is enforced: it is written
// nearly so in the same API group, or is of the group of ClusterNetworkPolicy. To pass over such an object
// could open what its author means to close.
func resembles(kind, version string) bool {
	group, _, _ := strings.Cut(version, "/")
	for enforced, of := range versions {
		near := distance(strings.ToLower(kind), strings.ToLower(enforced))
		sameGroup := slices.ContainsFunc(of, func(v string) bool { g, _, _ := strings.Cut(v, "/"); return g == group })
		if near == 0 || sameGroup && near <= 2 {
			return true
		}
	}
	return group == clusterv1beta1.GroupName
}

// skip passes over an object of a kind that nobody reads, and counts it. If the reader is strict, that is
// a finding.
func (r *reader) skip(kind string, report func(error)) {
	if r.strict {
		report(fmt.Errorf("%w %q: %s", errNotRead, kind, reads))
		return
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
