package charts

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestPools: there is a DaemonSet for each pool, with its settings, and one for the nodes in none, with
// those that all have; by the label of a node exactly one of them wants it.
func TestPools(t *testing.T) {
	got := render(t, `deny="reject"`, `extraArgs=["--revoked-mark=0"]`, `extraEnv=[{"name":"GOGC","value":"100"},{"name":"A","value":"b"}]`, `pools.byName={
		"edge":{"tolerations":[],"extraEnv":[{"name":"GOGC","value":"50"}]},
		"large":{"resources":{"limits":{"memory":"4Gi"}},"extraArgs":["--observe-flows=65536"]}}`)
	sets := map[string]string{"DaemonSet/podfence-agent": "", "DaemonSet/podfence-agent-edge": "edge", "DaemonSet/podfence-agent-large": "large"}
	for key := range got {
		if _, there := sets[key]; strings.HasPrefix(key, "DaemonSet/") && !there {
			t.Errorf("there is %s", key)
		}
	}

	for _, label := range []string{"", "edge", "large", "small"} { // of a node; empty: none
		var wanted []string
		for key := range sets {
			expression := affinity(t, got[key])[1]
			named := slices.Contains(expression["values"].([]any), any(label))
			if expression["key"] != "podfence.io/pool" {
				t.Errorf("%s asks for %v", key, expression)
			}
			if named == (expression["operator"] == "In") { // NotIn: without the label as well
				wanted = append(wanted, key)
			}
		}
		want := "DaemonSet/podfence-agent"
		if sets["DaemonSet/podfence-agent-"+label] == label && label != "" {
			want += "-" + label
		}
		if len(wanted) != 1 || wanted[0] != want {
			t.Errorf("a node of pool %q is wanted by %v, not by %s", label, wanted, want)
		}
	}

	flattened := flat(t, got)
	for path, want := range map[string]string{
		agent + "args[5]":                `"--revoked-mark=0"`,
		agent + "args[6]":                "",
		pool("large", agent) + "args[4]": `"--deny=reject"`,
		pool("large", agent) + "args[5]": `"--revoked-mark=0"`,
		pool("large", agent) + "args[6]": `"--observe-flows=65536"`,
		pool("edge", agent) + "args[6]":  "",
		agent + "env[1].value":           `"100"`, agent + "env[2].name": `"A"`, agent + "env[3].name": "",
		pool("edge", agent) + "env[1].name": `"A"`, pool("edge", agent) + "env[2].name": `"GOGC"`, pool("edge", agent) + "env[2].value": `"50"`, pool("edge", agent) + "env[3].name": "",
		pool("large", agent) + "env[1].name":                                      `"GOGC"`,
		agent + "resources.limits.memory":                                         `"1Gi"`,
		agent + "resources.requests.cpu":                                          `"50m"`,
		pool("edge", agent) + "resources.limits.memory":                           `"1Gi"`,
		pool("large", agent) + "resources.limits.memory":                          `"4Gi"`,
		pool("large", agent) + "resources.requests.cpu":                           "",
		pod + "tolerations[0].operator":                                           `"Exists"`,
		pool("large", pod) + "tolerations[0].operator":                            `"Exists"`,
		pool("edge", pod) + "tolerations[0].operator":                             "",
		pool("edge", ds) + "selector.matchLabels.podfence.io/pool":                `"edge"`,
		pool("edge", ds) + "template.metadata.labels.podfence.io/pool":            `"edge"`,
		pool("edge", ds) + "template.metadata.labels.app.kubernetes.io/component": `"agent"`, // by which all agents are found
	} {
		if flattened[path] != want {
			t.Errorf("%s is %s, not %s", path, flattened[path], want)
		}
	}

	// All else is as without pools: with a pool that says nothing, the two differ by their names and nodes alone.
	empty := render(t, `pools.byName.big={}`)
	delete(empty, "DaemonSet/podfence-agent-big")
	without := render(t)
	delete(empty, "DaemonSet/podfence-agent")
	delete(without, "DaemonSet/podfence-agent")
	compare(t, empty, without)
	same := render(t, `pools.byName.big={}`)
	a, b := flat(t, map[string]any{"x": same["DaemonSet/podfence-agent"]}), flat(t, map[string]any{"x": same["DaemonSet/podfence-agent-big"]})
	var differ []string
	for path := range maps.Keys(b) {
		if a[path] != b[path] {
			differ = append(differ, strings.TrimPrefix(path, "x."))
		}
	}
	slices.Sort(differ)
	want := []string{
		"metadata.labels.podfence.io/pool", "metadata.name", "spec.selector.matchLabels.podfence.io/pool",
		"spec.template.metadata.labels.podfence.io/pool", "spec.template.spec." + notUninstalled + "operator",
	}
	if !slices.Equal(differ, want) {
		t.Errorf("the DaemonSets differ in %v, not in %v", differ, want)
	}
}

// TestPoolsUninstall: podfence is taken off nodes whose taints only one pool's agents tolerate, too.
func TestPoolsUninstall(t *testing.T) {
	got := flat(t, render(t, `uninstall=true`, `tolerations=[{"key":"a","operator":"Exists"}]`,
		`pools.byName={"b":{"tolerations":[{"key":"a","operator":"Exists"},{"key":"b","operator":"Exists"}]},"c":{}}`))
	for path, want := range map[string]string{"[0].key": `"a"`, "[1].key": `"b"`, "[2].key": ""} {
		if path = "DaemonSet/podfence-uninstall.spec.template.spec.tolerations" + path; got[path] != want {
			t.Errorf("%s is %s, not %s", path, got[path], want)
		}
	}
}

// pool is a path in the DaemonSet of a pool.
func pool(name, path string) string {
	return strings.Replace(path, "DaemonSet/podfence-agent", "DaemonSet/podfence-agent-"+name, 1)
}

// affinity is what a DaemonSet asks of the labels of nodes.
func affinity(t *testing.T, object any) []map[string]any {
	t.Helper()
	for _, key := range []string{"spec", "template", "spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"} {
		object, _ = object.(map[string]any)[key]
	}
	terms, _ := object.(map[string]any)["nodeSelectorTerms"].([]any)
	if len(terms) != 1 {
		t.Fatalf("there are %d terms, of which one would be enough: %v", len(terms), terms)
	}
	var expressions []map[string]any
	for _, expression := range terms[0].(map[string]any)["matchExpressions"].([]any) {
		expressions = append(expressions, expression.(map[string]any))
	}
	if len(expressions) != 2 || fmt.Sprint(expressions[0]["key"]) != "podfence.io/uninstall" {
		t.Fatalf("it asks for %v", expressions)
	}
	return expressions
}
