package manifests

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/api/v1alpha1"
)

// item is an object of a List: its kind and name, what controls it if anything does, and its other fields.
func item(kind, name, controller, rest string) string {
	version, _ := versionsOf(kind, true)
	owner := ""
	if of, by, controlled := strings.Cut(controller, "/"); controlled {
		owner = fmt.Sprintf(", ownerReferences: [{apiVersion: %q, kind: %s, name: %s, uid: u, controller: true}]", version[0], of, by)
	}
	return fmt.Sprintf("- {apiVersion: %q, kind: %s, metadata: {namespace: w, name: %s%s}%s}\n", version[0], kind, name, owner, rest)
}

// TestStandInsBesideEnded: a workload whose pods have ended stands for its next pod, unless it makes none.
func TestStandInsBesideEnded(t *testing.T) {
	const (
		succeeded = ", status: {phase: Succeeded}"
		failed    = ", status: {phase: Failed}"
		running   = ", status: {phase: Running, podIPs: [{ip: 10.0.0.9}]}"
	)
	nightly := item("CronJob", "cj", "", "") + item("Job", "cj-1", "CronJob/cj", "")
	for _, test := range []struct {
		name, text string
		want       []string
	}{
		{"a CronJob between two runs", nightly + item("Pod", "cj-1-x", "Job/cj-1", succeeded), []string{"cj-0"}},
		{"a CronJob that runs", nightly + item("Pod", "cj-1-x", "Job/cj-1", running), nil},
		{"a CronJob whose Job tries again", nightly + item("Pod", "cj-1-x", "Job/cj-1", failed), []string{"cj-0", "cj-1-0"}},
		{"a Job of a CronJob that is not in the files", item("Job", "cj-1", "CronJob/cj", "") + item("Pod", "cj-1-x", "Job/cj-1", failed), []string{"cj-1-0"}},
		{"a Job that tries again", item("Job", "j", "", "") + item("Pod", "j-x", "Job/j", failed), []string{"j-0"}},
		{"a Job whose pod has succeeded", item("Job", "j", "", "") + item("Pod", "j-x", "Job/j", succeeded), nil},
		{"a Job of two pods, after the first", item("Job", "j", "", ", spec: {completions: 2}") + item("Pod", "j-x", "Job/j", succeeded), []string{"j-0"}},
		{"a Job of no pods", item("Job", "j", "", ", spec: {completions: 0}"), nil},
		{"a Job that is complete", item("Job", "j", "", `, status: {conditions: [{type: Complete, status: "True"}]}`), nil},
		{"a Job that has failed", item("Job", "j", "", `, status: {conditions: [{type: Failed, status: "True"}]}`) + item("Pod", "j-x", "Job/j", failed), nil},
		{"a Job that is not complete yet", item("Job", "j", "", `, status: {conditions: [{type: Complete, status: "False"}, {type: Suspended, status: "True"}]}`), []string{"j-0"}},
		{"a StatefulSet whose pod was evicted", item("StatefulSet", "db", "", "") + item("Pod", "db-0", "StatefulSet/db", failed), []string{"db-1"}},
		{"a ReplicaSet of what is not in the files", item("ReplicaSet", "r-1", "Rollout/r", "") + item("ReplicaSet", "r-2", "Rollout/r", ", spec: {replicas: 0}"), []string{"r-1-0"}},
		{"two workloads of one name", item("Deployment", "web", "", "") + item("Job", "web", "", ""), []string{"web-0", "web-1"}},
	} {
		o, err := Read([]string{"-"}, ReadOptions{Stdin: strings.NewReader("apiVersion: v1\nkind: List\nitems:\n" + test.text)})
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		var got []string
		for _, pod := range o.Pods {
			if pod.Annotations[v1alpha1.StandInAnnotation] == "true" && len(pod.Status.PodIPs) > 0 {
				got = append(got, pod.Name)
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v stand in, want %v", test.name, got, test.want)
		}
	}
}
