package explain_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

func target(t *testing.T, text string) explain.Target {
	t.Helper()
	out, err := explain.ParseTarget(text, "default")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestReachText: a workload, a pod, a namespace and an address, as text.
func TestReachText(t *testing.T) {
	x := newExplainer(theShop(t))
	for _, name := range []string{"deploy/shop/api", "shop/api-2", "ns/batch", "203.0.113.9", "node/node-1"} {
		r, err := x.Reach(target(t, name))
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		if err := r.WriteText(&text, explain.Plain, explain.Table{}); err != nil {
			t.Fatal(err)
		}
		golden(t, "testdata/reach-"+strings.NewReplacer("/", "-").Replace(name)+".txt", text.String())
	}
}

// TestReachNames: who is named is reached or reaches it; a row that says that a network is closed out is not that.
func TestReachNames(t *testing.T) {
	r, err := newExplainer(parseCluster(t, `
apiVersion: v1
kind: Pod
metadata: {namespace: a, name: web, labels: {app: web}}
status: {phase: Running, podIPs: [{ip: 10.0.0.2}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: a, name: web}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [172.16.0.0/12]}}], ports: [{port: 80}]}]
`)).Reach(target(t, "a/web"))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Ingress) != 2 {
		t.Errorf("the rows are %+v, want one that says what is closed", r.Ingress)
	}
	if got := r.Names(); !slices.Equal(got, []string{"0.0.0.0/0"}) {
		t.Errorf("%v, want 0.0.0.0/0", got)
	}
}

func TestReachRefuses(t *testing.T) {
	x := newExplainer(theShop(t))
	for name, want := range map[string]string{
		"svc/shop/api":    "policies do not know Services",
		"deploy/shop/ape": "there is no Deployment shop/ape",
		"ns/shops":        "there is no Namespace shops",
		"shop/web-9":      "there is no Pod shop/web-9",
	} {
		if _, err := x.Reach(target(t, name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if _, err := x.Matrix("shops"); err == nil || !strings.Contains(err.Error(), "there is no Namespace shops") {
		t.Errorf("matrix of a namespace that is not there: %v", err)
	}
}

// TestNamespaceTarget: a namespace is a target, of Reach and of questions.
func TestNamespaceTarget(t *testing.T) {
	for text, want := range map[string]explain.Target{
		"ns/shop": {Kind: explain.KindNamespace, Name: "shop"}, "namespace/shop": {Kind: explain.KindNamespace, Name: "shop"},
		"ns": {Kind: explain.KindPod, Namespace: "default", Name: "ns"}, "shop/ns": {Kind: explain.KindPod, Namespace: "shop", Name: "ns"},
	} {
		if got := target(t, text); got != want {
			t.Errorf("%q is %+v, want %+v", text, got, want)
		}
	}
	if got := target(t, "namespaces/shop").String(); got != "ns/shop" {
		t.Errorf("it reads %q", got)
	}
	if got, err := explain.ParseTarget("ns/shop/web", "default"); err == nil {
		t.Errorf("a pod of a namespace is taken for %+v", got)
	}
	x := newExplainer(theShop(t))
	e, err := x.Explain(explain.Question{From: target(t, "ns/batch"), To: target(t, "ns/shop"), Port: explain.Port{Protocol: policy.TCP, Number: 8080}})
	if err != nil || e.Verdict != explain.Mixed {
		t.Errorf("%v, %+v", err, e)
	}
}

// TestMatrixViews: a matrix as text, JSON, DOT and SVG.
func TestMatrixViews(t *testing.T) {
	x := newExplainer(theShop(t))
	m, err := x.Matrix("")
	if err != nil {
		t.Fatal(err)
	}
	var text, dot, svg bytes.Buffer
	out, err := json.MarshalIndent(m, "", "  ")
	if err := errors.Join(err, m.WriteText(&text, explain.Plain, explain.Table{}), m.Graph().WriteDOT(&dot), m.Graph().WriteSVG(&svg)); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/matrix.txt", text.String())
	golden(t, "testdata/matrix.json", string(out)+"\n")
	golden(t, "testdata/matrix.dot", dot.String())
	golden(t, "testdata/matrix.svg", svg.String())
	wellFormed(t, svg.String())
	r, err := x.Reach(target(t, "deploy/shop/api"))
	if err != nil {
		t.Fatal(err)
	}
	svg.Reset()
	if err := r.Graph().WriteSVG(&svg); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/reach.svg", svg.String())
	wellFormed(t, svg.String())
}

// wellFormed holds that a text is XML.
func wellFormed(t *testing.T, text string) {
	t.Helper()
	decoder := xml.NewDecoder(strings.NewReader(text))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("this is no XML: %v", err)
		}
	}
}
