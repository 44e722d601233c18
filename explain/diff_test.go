package explain_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/explain"
)

// applied is the shop after objects were applied to it, and others deleted.
func applied(t *testing.T, changed string, deleted ...explain.Object) *explain.Cluster {
	t.Helper()
	c, err := explain.Apply(theShop(t), parseCluster(t, changed), deleted...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func diffText(t *testing.T, d *explain.Diff) string {
	t.Helper()
	var text bytes.Buffer
	if err := d.WriteText(&text, explain.Plain); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// TestDiffText: policies are changed, opened and closed connections are named with what decides.
func TestDiffText(t *testing.T) {
	old := theShop(t)
	now, err := explain.Apply(old, readCluster(t, "shop/policies-new.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	d := explain.Compare(newExplainer(old), newExplainer(now))
	golden(t, "testdata/diff.txt", diffText(t, d))
	out, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/diff.json", string(out)+"\n")
	before, after := d.Rules()
	if len(before) == 0 || len(after) == 0 {
		t.Errorf("%d rules before, %d after", len(before), len(after))
	}
	after[0].Source = &explain.Source{File: "web.yaml", Line: 12}
	if text := diffText(t, d); !strings.Contains(text, "web.yaml:12") {
		t.Errorf("where a rule is written is not in\n%s", text)
	}
}

// TestApply: what is applied or deleted, and what that opens and closes, in short.
func TestApply(t *testing.T) {
	standIn := `
apiVersion: v1
kind: Pod
metadata:
  {namespace: shop, name: NAME-0, labels: {LABELS}, annotations: {podfence.io/stand-in: "true"}, ownerReferences: [{kind: Deployment, name: NAME, controller: true}]}
spec: {containers: [{name: api, ports: [{name: http, containerPort: 8080}]}]}
status: {phase: Running, podIP: 240.0.0.1, podIPs: [{ip: 240.0.0.1}]}`
	pod := func(name, labels string) string {
		return strings.NewReplacer("NAME", name, "LABELS", labels).Replace(standIn)
	}
	for _, test := range []struct {
		name, changed string
		deleted       []explain.Object
		want          []string
	}{
		{name: "nothing"},
		{name: "a template's labels", changed: pod("api", "app: db"), want: []string{
			"CLOSED  deploy/shop/api -> sts/shop/db  TCP 5432", "CLOSED  deploy/shop/api -> 203.0.113.0/24  TCP 443  (1 of 2 pairs)",
			"CLOSED  deploy/shop/web -> deploy/shop/api  TCP 8080",
		}},
		{name: "a workload that is new", changed: pod("other", "app: web"), want: []string{"ADDED   deploy/shop/other"}},
		{name: "a workload by whose name another has a pod", changed: pod("db", "app: web"), want: []string{"ADDED   deploy/shop/db"}},
		{name: "a policy is deleted", deleted: []explain.Object{{Kind: "NetworkPolicy", Namespace: "shop", Name: "canary"}}, want: []string{
			"CLOSED  deploy/shop/api -> 203.0.113.0/24  TCP 443  (1 of 2 pairs)",
		}},
		{name: "a workload is deleted", deleted: []explain.Object{{Kind: "Deployment", Namespace: "shop", Name: "web"}}, want: []string{"REMOVED deploy/shop/web"}},
		{name: "a namespace is deleted", deleted: []explain.Object{{Kind: "Namespace", Name: "shop"}}, want: []string{
			"REMOVED deploy/shop/api", "REMOVED sts/shop/db", "REMOVED deploy/shop/web",
		}},
		{name: "a pod's labels", changed: "apiVersion: v1\nkind: Pod\nmetadata: {namespace: shop, name: db-0, labels: {app: other}}", want: []string{
			// Of the two pods one is isolated by a policy more.
			"CLOSED  deploy/shop/api -> sts/shop/db  TCP 5432  (1 of 2 pairs)", "CLOSED  deploy/shop/api -> sts/shop/db  TCP 5432  (1 of 2 pairs)",
		}},
		{name: "a namespace's labels", changed: "apiVersion: v1\nkind: Namespace\nmetadata: {name: batch, labels: {team: other}}"},
		{name: "a namespace's policy", changed: `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: batch, name: deny}
spec: {podSelector: {}, policyTypes: [Egress]}`, want: []string{
			"CLOSED  job/batch/report -> deploy/shop/web  TCP 8080", "CLOSED  job/batch/report -> nodes  all ports",
			"CLOSED  job/batch/report -> outside (any other IPv4 address)  all ports",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := explain.Compare(newExplainer(theShop(t)), newExplainer(applied(t, test.changed, test.deleted...)))
			var got []string
			for _, line := range strings.Split(diffText(t, d), "\n") {
				if line != "" && line[0] != ' ' {
					line, _, _ = strings.Cut(line, ": ask")
					got = append(got, line)
				}
			}
			if strings.Join(got, "\n") != strings.Join(test.want, "\n") || d.Empty() != (len(test.want) == 0) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

// TestApplyChangesNothingElse: the cluster that is applied to stays as it is, pods keep what controllers
// have given them, and a pod that stands in gets an address that nobody has.
func TestApplyChangesNothingElse(t *testing.T) {
	old, untouched := theShop(t), theShop(t)
	old.Pods[0].Labels["pod-template-hash"], untouched.Pods[0].Labels["pod-template-hash"] = "5d", "5d"
	changed := &explain.Cluster{}
	for _, name := range []string{"web", "new"} {
		p := old.Pods[0].DeepCopy()
		p.Name, p.Labels, p.Annotations = name+"-0", map[string]string{"app": "x"}, map[string]string{v1alpha1.StandInAnnotation: "true"}
		p.OwnerReferences[0].Kind, p.OwnerReferences[0].Name = "Deployment", name
		changed.Pods = append(changed.Pods, p)
	}
	changed.Namespaces = []*corev1.Namespace{{}}
	changed.Namespaces[0].Name = "batch"
	now, err := explain.Apply(old, changed)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(untouched, old, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(explain.Cluster{})); diff != "" {
		t.Errorf("the cluster that was applied to has changed (-before +after):\n%s", diff)
	}
	if l := now.Pods[0].Labels; l["app"] != "x" || l["pod-template-hash"] != "5d" || len(l) != 2 {
		t.Errorf("labels %v", l)
	}
	if last := now.Pods[len(now.Pods)-1]; last.Name != "new-0" || last.Status.PodIP != "10.244.1.12" {
		t.Errorf("the pod that stands in: %s with address %s, want new-0 with 10.244.1.12", last.Name, last.Status.PodIP)
	}
	if l := now.Namespaces[1].Labels; l[corev1.LabelMetadataName] != "batch" || len(changed.Namespaces[0].Labels) != 0 {
		t.Errorf("the namespace's labels: %v, and of the one that was applied %v", l, changed.Namespaces[0].Labels)
	}
}

// TestApplyBesideEnded: a workload all of whose pods have ended gets the pod that stands in, unless it is a Job, which
// has begun already; and no pod changes that has ended.
func TestApplyBesideEnded(t *testing.T) {
	of := func(kind, name, more string) *explain.Cluster {
		return parseCluster(t, fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {namespace: a, name: w-0, labels: {app: %s}, ownerReferences: [{kind: %s, name: w, controller: true}]%s", name, kind, more))
	}
	for kind, want := range map[string]string{"CronJob": "[w-0 app=old w-0-next app=new]", "Job": "[w-0 app=old]"} {
		for _, phase := range []string{"Succeeded", "Failed"} {
			now, err := explain.Apply(of(kind, "old", "}\nstatus: {phase: "+phase+", podIPs: [{ip: 10.0.0.1}]}"),
				of(kind, "new", ", annotations: {podfence.io/stand-in: \"true\"}}\nstatus: {podIPs: [{ip: 240.0.0.2}]}"))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, pod := range now.Pods {
				got = append(got, pod.Name+" app="+pod.Labels["app"])
			}
			if fmt.Sprint(got) != want {
				t.Errorf("%s, %s: %v, want %s", kind, phase, got, want)
			}
		}
	}
}

func TestApplyRefuses(t *testing.T) {
	_, err := explain.Apply(theShop(t), &explain.Cluster{},
		explain.Object{Kind: "NetworkPolicy", Namespace: "shop", Name: "dbb"}, explain.Object{Kind: "Namespace", Name: "shops"})
	if err == nil || err.Error() != "there is no NetworkPolicy shop/dbb to delete\nthere is no Namespace shops to delete" {
		t.Errorf("%v", err)
	}
}

// TestCounterparts: pods that have other names after a change are held against those of their workload.
func TestCounterparts(t *testing.T) {
	old, now := theShop(t), theShop(t)
	for _, pod := range now.Pods {
		pod.Name += "-again"
	}
	if d := explain.Compare(newExplainer(old), newExplainer(now)); !d.Empty() {
		t.Errorf("with other names, and nothing else, there is a difference:\n%s", diffText(t, d))
	}
	now.Policies = now.Policies[:len(now.Policies)-1] // the database's
	want := "CLOSED  deploy/shop/api -> sts/shop/db  TCP 5432\n"
	if got := diffText(t, explain.Compare(newExplainer(old), newExplainer(now))); !strings.HasPrefix(got, want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	// One pod more is no difference, as long as it is like another.
	more := now.Pods[0].DeepCopy()
	more.Name, more.Status.PodIPs[0].IP = "web-2", "10.244.1.77"
	scaled := *now
	scaled.Pods = append([]*corev1.Pod{more}, now.Pods...)
	if d := explain.Compare(newExplainer(now), newExplainer(&scaled)); !d.Empty() {
		t.Errorf("with one pod more there is a difference:\n%s", diffText(t, d))
	}
	if d := explain.Compare(newExplainer(&scaled), newExplainer(now)); !d.Empty() {
		t.Errorf("with one pod fewer there is a difference:\n%s", diffText(t, d))
	}
	// What stands for the pod that is gone is not held against itself, which it always reaches.
	without := *now
	without.Policies = slices.DeleteFunc(slices.Clone(now.Policies), func(np *networkingv1.NetworkPolicy) bool { return np.Name == "web" })
	if d := explain.Compare(newExplainer(&scaled), newExplainer(&without)); len(d.Opened) > 0 || len(d.Closed) == 0 {
		t.Errorf("with one pod and the policy of the others fewer:\n%s", diffText(t, d))
	}
}
