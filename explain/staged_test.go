package explain_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

const stagedShop = `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {containers: [{name: web, image: web, ports: [{containerPort: 80}]}]}
status: {phase: Running, podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db, labels: {app: db}}
spec: {containers: [{name: db, image: db, ports: [{name: pg, containerPort: 5432, protocol: TCP}]}]}
status: {phase: Running, podIP: 10.1.0.2, podIPs: [{ip: 10.1.0.2}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: strict, annotations: {podfence.io/enforcement: staged}}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - {from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}
`

func stagedText(t *testing.T, c *explain.Cluster, o policy.JudgeOptions, to string) string {
	t.Helper()
	q, err := explain.ParseQuestion("web", to, "shop")
	if err != nil {
		t.Fatal(err)
	}
	e, err := explain.New(c, o).Explain(q)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := e.WriteText(&text, explain.Plain); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// TestStagedText: a staged policy decides nothing, and is named with what it would decide.
func TestStagedText(t *testing.T) {
	for _, test := range []struct {
		to   string
		o    policy.JudgeOptions
		want string
	}{
		{"db:22", policy.JudgeOptions{}, `ALLOWED  shop/web -> shop/db port 22/TCP; with the staged policies in force: DENIED
  egress of shop/web: allowed: no policy isolates the pod for egress
  ingress of shop/db: allowed: no policy isolates the pod for ingress
    staged, not in force: NetworkPolicy shop/strict
      with the staged policies in force it would be denied: isolated for ingress by NetworkPolicy shop/strict (staged), and no rule allows this
`},
		{"db:5432", policy.JudgeOptions{}, `ALLOWED  shop/web -> shop/db port 5432/TCP
  egress of shop/web: allowed: no policy isolates the pod for egress
  ingress of shop/db: allowed: no policy isolates the pod for ingress
    staged, not in force: NetworkPolicy shop/strict
      with the staged policies in force it would still be allowed by NetworkPolicy shop/strict (staged) spec.ingress[0].from[0] and ports[0]
`},
		{"db", policy.JudgeOptions{}, `ALLOWED  shop/web -> shop/db; with the staged policies in force: MIXED, open are TCP 5432
  egress of shop/web: allowed: no policy isolates the pod for egress
  ingress of shop/db: allowed: no policy isolates the pod for ingress
    staged, not in force: NetworkPolicy shop/strict
      with the staged policies in force it would still be allowed by NetworkPolicy shop/strict (staged) spec.ingress[0].from[0] and ports[0]
`},
		{"db:22", policy.JudgeOptions{StagedInForce: true}, `DENIED  shop/web -> shop/db port 22/TCP, by ingress of shop/db
  ingress of shop/db: denied: isolated for ingress by NetworkPolicy shop/strict (staged), and no rule allows this
    nearest miss: NetworkPolicy shop/strict spec.ingress[0]
      .ports[0]: port 22 is not in 5432
  egress of shop/web: allowed: no policy isolates the pod for egress
`},
	} {
		if got := stagedText(t, parseCluster(t, stagedShop), test.o, test.to); got != test.want {
			t.Errorf("%s: %+v:\n%s, want\n%s", test.to, test.o, got, test.want)
		}
	}
}

// TestApplyKeepsStaged: as kubectl apply, a file without the annotation leaves it as it is, unless the last file that
// was applied had it; with it, or in the cluster without it, the file says. What comes into force is a change.
func TestApplyKeepsStaged(t *testing.T) {
	const annotations = "annotations: {podfence.io/enforcement: staged}"
	inForce := strings.ReplaceAll(stagedShop, annotations, "annotations: {}")
	byFile := strings.ReplaceAll(stagedShop, annotations, `annotations: {podfence.io/enforcement: staged, kubectl.kubernetes.io/last-applied-configuration: '{"metadata":{"annotations":{"podfence.io/enforcement":"staged"}}}'}`)
	byNamespace := strings.Replace(inForce, "{name: shop}", "{name: shop, "+annotations+"}", 1)
	for _, test := range []struct {
		name, old, changed string
		closed, opened     bool
	}{
		{"staged by hand", stagedShop, inForce, false, false},
		{"staged by the file, and enforced by it", byFile, inForce, true, false},
		{"staged by the file", inForce, stagedShop, false, true},
		{"its namespace is staged by hand", byNamespace, inForce, false, false},
		{"its namespace is staged by the file", inForce, byNamespace, false, true},
	} {
		old := parseCluster(t, test.old)
		now, err := explain.Apply(old, parseCluster(t, test.changed))
		if err != nil {
			t.Fatal(err)
		}
		d := explain.Compare(newExplainer(old), newExplainer(now))
		if (len(d.Closed) > 0) != test.closed || (len(d.Opened) > 0) != test.opened {
			t.Errorf("%s: closed %v, opened %v", test.name, d.Closed, d.Opened)
		}
		if told := len(d.Notes) > 0 && d.Notes[0].Reason == "Staged"; told != test.opened {
			t.Errorf("%s: notes %v", test.name, d.Notes)
		}
	}
}

// TestReachNamesStaged: who reaches whom is what is in force, and the staged policies are named.
func TestReachNamesStaged(t *testing.T) {
	x := newExplainer(parseCluster(t, stagedShop))
	r, err := x.Reach(explain.Target{Kind: explain.KindPod, Namespace: "shop", Name: "db"})
	if err != nil {
		t.Fatal(err)
	}
	m, err := x.Matrix("shop")
	if err != nil {
		t.Fatal(err)
	}
	for _, notes := range [][]explain.Note{r.Notes, m.Notes} {
		if len(notes) != 1 || notes[0].Message != "Staged, and taken for not in force: NetworkPolicy shop/strict." {
			t.Errorf("notes %v", notes)
		}
	}
	with, err := x.WithStaged().Reach(explain.Target{Kind: explain.KindPod, Namespace: "shop", Name: "db"})
	if err != nil || len(with.Notes) > 0 || len(with.Ingress) >= len(r.Ingress) {
		t.Errorf("with the staged policies in force %+v, %v", with, err)
	}
}
