package commands_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/api/flows"
)

const (
	seenFlows   = shop + "flows.jsonl"
	shopObjects = shop + "cluster.yaml"
)

// readFlows are the flows of the example.
func readFlows(t *testing.T) (all []*flows.Flow) {
	t.Helper()
	text, err := os.ReadFile(seenFlows)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f, _, err := flows.ParseLine([]byte(strings.TrimSpace(line)))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	return all
}

// asHubble is a flow as hubble observe -o jsonpb prints it, and as older versions did if bare.
func asHubble(t *testing.T, f *flows.Flow, bare bool) string {
	t.Helper()
	end := func(e flows.Endpoint) map[string]any {
		out := map[string]any{"identity": 1000, "labels": []string{"reserved:world"}}
		switch {
		case e.Node != "":
			out["labels"] = []string{"reserved:host"}
		case e.Pod != "":
			labels := []string{"k8s:io.kubernetes.pod.namespace=" + e.Namespace, "k8s:io.cilium.k8s.policy.cluster=default"}
			for key, value := range e.Labels {
				labels = append(labels, "k8s:"+key+"="+value)
			}
			out["namespace"], out["pod_name"], out["labels"] = e.Namespace, e.Pod, labels
			if e.Workload != nil {
				out["workloads"] = []map[string]string{{"name": e.Workload.Name, "kind": e.Workload.Kind}}
			}
		}
		return out
	}
	h := map[string]any{
		"time": f.Time, "verdict": map[flows.Verdict]string{flows.Allowed: "FORWARDED", flows.Denied: "DROPPED"}[f.Verdict], "Type": "L3_L4", "node_name": "default/" + f.Node,
		"IP":     map[string]any{"source": f.Source.IP, "destination": f.Destination.IP, "ipVersion": "IPv4"},
		"l4":     map[string]any{f.Protocol: map[string]any{"source_port": f.Source.Port, "destination_port": f.Destination.Port, "flags": map[string]bool{"SYN": true}}},
		"source": end(f.Source), "destination": end(f.Destination), "Summary": "TCP Flags: SYN",
	}
	if f.Source.Port%2 == 0 { // else its flags tell who has begun
		h["is_reply"] = false
	}
	if f.Asked != nil {
		h["destination_service"] = map[string]string{"namespace": f.Asked.Namespace, "name": f.Asked.Service}
	}
	var value any = map[string]any{"flow": h, "node_name": f.Node, "time": f.Time}
	if bare {
		value = h
	}
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + "\n"
}

// write writes a file of a test's.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestGenerateReadsHubble: Hubble's flows become the policies that podfence's do; replies and what says nothing of
// connections make no difference, and are counted.
func TestGenerateReadsHubble(t *testing.T) {
	code, want, errOut := call(t, "generate", "-A", "-f", seenFlows, "--objects", shopObjects)
	if code != 0 || strings.Count(want, "kind: NetworkPolicy") != 4 || !strings.HasPrefix(errOut, "21 flows covered, of 23 that were read; 4 policies.\n") {
		t.Fatalf("exit code %d: %s%s", code, errOut, want)
	}
	for _, bare := range []bool{false, true} {
		var text strings.Builder
		for _, f := range readFlows(t) {
			text.WriteString(asHubble(t, f, bare))
		}
		text.WriteString(`{"flow":{"verdict":"FORWARDED","is_reply":true,"IP":{"source":"10.244.2.12","destination":"10.244.2.20"},"l4":{"TCP":{"source_port":5432,"destination_port":43000}}}}
{"flow":{"verdict":"FORWARDED","IP":{"source":"10.244.2.12","destination":"10.244.2.20"},"l4":{"UDP":{"source_port":5432,"destination_port":43000}}}}
{"flow":{"verdict":"TRANSLATED"}}
{"node_status":{"state_change":"NODE_CONNECTED","node_names":["node-1"]}}
`)
		code, out, errOut := call(t, "generate", "-A", "-f", write(t, "hubble.json", text.String()), "--objects", shopObjects)
		if code != 0 || out != want {
			t.Errorf("exit code %d, %s:\n%s\ninstead of\n%s", code, errOut, out, want)
		}
		for _, says := range []string{"21 flows covered, of 26 that were read", "1 flow replies", "1 flow of which nobody can tell who has begun", "1 flow with a verdict", "1 flow of nodes"} {
			if !strings.Contains(errOut, says) {
				t.Errorf("it does not say %q:\n%s", says, errOut)
			}
		}
	}
	lost := write(t, "lost.json", `{"lost_events":{"source":"HUBBLE_RING_BUFFER","num_events_lost":"7"}}`+"\n")
	if code, out, errOut := call(t, "generate", "-A", "-f", seenFlows, "-f", lost, "--objects", shopObjects); code != 1 || out != want || !strings.Contains(errOut, "7 flows that Hubble has lost") {
		t.Errorf("exit code %d: %s", code, errOut)
	}
}

// TestGenerateKeepsFewOfAKind: of very many connections of one kind, some are kept, and the policies are the same.
func TestGenerateKeepsFewOfAKind(t *testing.T) {
	_, want, _ := call(t, "generate", "-n", "batch", "-f", seenFlows, "--objects", shopObjects)
	var text strings.Builder
	for _, f := range readFlows(t) {
		for i := range 300 {
			if f.Destination.Port != 5432 && i > 0 {
				break
			}
			other := *f
			other.Source.Port += uint16(i)
			line, err := json.Marshal(&other)
			if err != nil {
				t.Fatal(err)
			}
			text.Write(append(line, '\n'))
		}
	}
	code, out, errOut := call(t, "generate", "-n", "batch", "-f", write(t, "many.json", text.String()), "--objects", shopObjects)
	if code != 0 || out != want || !strings.Contains(errOut, "flows like many others that were read") {
		t.Errorf("exit code %d, %s:\n%s", code, errOut, out)
	}
}

// TestGenerateFolder: a file for each policy, the same when it is written again, and those of earlier calls are named.
func TestGenerateFolder(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "policies")
	generate := func(flags ...string) string {
		t.Helper()
		code, out, errOut := call(t, append([]string{"generate", "-f", seenFlows, "--objects", shopObjects, "--output-dir", folder}, flags...)...)
		if code != 0 || out != "" {
			t.Fatalf("exit code %d: %s%s", code, errOut, out)
		}
		return errOut
	}
	names := func() (all []string) {
		t.Helper()
		entries, err := os.ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			all = append(all, e.Name())
		}
		return all
	}
	generate()
	if got := fmt.Sprint(names()); got != "[batch_report.yaml shop_api.yaml shop_db.yaml shop_web.yaml]" {
		t.Errorf("the folder has %s", got)
	}
	before, err := os.ReadFile(filepath.Join(folder, "shop_api.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "shop_mine.yaml"), []byte("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: shop, name: mine}\nspec: {podSelector: {}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	errOut := generate("-n", "shop")
	if !strings.Contains(errOut, "batch_report.yaml has a policy of an earlier call") || strings.Contains(errOut, "mine") || strings.Contains(errOut, "shop_api.yaml") {
		t.Error(errOut)
	}
	after, err := os.ReadFile(filepath.Join(folder, "shop_api.yaml"))
	if err != nil || string(after) != string(before) {
		t.Errorf("%v: %s", err, after)
	}
	// kubectl podfence reads what it has written.
	code, _, errOut := call(t, "reach", "-f", folder, "-f", shopObjects, "deploy/shop/api")
	if code != 0 {
		t.Errorf("exit code %d: %s", code, errOut)
	}
}

// TestGenerateObserves: agents are asked for what passes and what does not, for as long as was said, and who does not
// answer is said.
func TestGenerateObserves(t *testing.T) {
	_, want, _ := call(t, "generate", "-n", "batch", "-f", seenFlows, "--objects", shopObjects)
	a := &flowAgent{more: make(chan *flows.Flow, 100)}
	for _, f := range readFlows(t) {
		a.more <- f
	}
	agent := a.start(t)
	code, out, errOut := call(t, "generate", "-n", "batch", agent, "--objects", shopObjects, "--for", "1500ms")
	if code != 0 || out != want || !strings.Contains(errOut, "observing connections for 1.5s") || !strings.Contains(errOut, "1 flow denied") {
		t.Errorf("exit code %d, %s:\n%s", code, errOut, out)
	}
	if q := a.queries()[0]; !q.Follow || q.Last != 0 || len(q.Verdicts) != 0 || fmt.Sprint(q.Namespaces) != "[batch]" {
		t.Errorf("asked for %+v", q)
	}
	a = &flowAgent{more: make(chan *flows.Flow, 100), missed: 7}
	for _, f := range readFlows(t) {
		a.more <- f
	}
	began := time.Now()
	code, out, errOut = call(t, "generate", "-n", "batch", a.start(t), "--agent", "127.0.0.1:1", "--objects", shopObjects, "--for", "1s")
	if code != 1 || out != want || time.Since(began) < time.Second {
		t.Errorf("exit code %d, %s:\n%s", code, errOut, out)
	}
	for _, says := range []string{"missing:\n", "what node 127.0.0.1:1 has seen: ", "7 flows, which agents have forgotten"} {
		if !strings.Contains(errOut, says) {
			t.Errorf("it does not say %q:\n%s", says, errOut)
		}
	}
}

// TestGenerateRefuses: calls that cannot be meant, and files that are none of flows.
func TestGenerateRefuses(t *testing.T) {
	objects := []string{"--objects", shopObjects}
	for args, says := range map[string]string{
		"-f none.json":                            "none.json",
		"-f " + shopObjects:                       "reading flows: " + shopObjects + ", flow 1",
		"-f " + write(t, "x", `{"a":1}`):          "it has no verdict",
		"-f " + seenFlows + " --for 1m":           "--for",
		"-f " + seenFlows + " --agent 1.2.3.4:1":  "--agent",
		"--for 0s":                                "--for is 0s",
		"-f " + seenFlows + " --rare -1":          "--rare is -1",
		"-f " + seenFlows + " --cidr-min 33":      "--cidr-min is 33 64",
		"-f " + seenFlows + " --cidr-min 24,64,3": "--cidr-min is 24 64 3",
		"-f " + seenFlows + " -n none":            "no namespace none",
		"-f - --objects -":                        "standard input",
	} {
		code, out, errOut := call(t, append(append([]string{"generate"}, strings.Fields(args)...), objects...)...)
		if code != 2 || out != "" || !strings.Contains(errOut, says) {
			t.Errorf("%s: exit code %d, not %q: %s%s", args, code, says, errOut, out)
		}
	}
	if code, out, errOut := call(t, append([]string{"generate", "-f", write(t, "empty", "")}, objects...)...); code != 1 || out != "" || !strings.HasPrefix(errOut, "0 flows covered, of 0 that were read; 0 policies.\n") {
		t.Errorf("of nothing: exit code %d: %s%s", code, errOut, out)
	}
}

// TestGenerateByOwnSelectors: pods are named by what their workload selects them by, as files have it.
func TestGenerateByOwnSelectors(t *testing.T) {
	objects := write(t, "objects.yaml", `{apiVersion: apps/v1, kind: Deployment, metadata: {namespace: shop, name: web}, spec: {selector: {matchLabels: {app: web}},
  template: {metadata: {labels: {app: web, team: a}}, spec: {containers: [{name: web, ports: [{name: http, containerPort: 8080}]}]}}}}
`)
	seen := write(t, "flows.json", `{"time":"2026-01-31T12:00:00Z","node":"n","verdict":"allowed","source":{"ip":"203.0.113.7","port":1},"destination":{"ip":"10.0.0.1","port":8080,"namespace":"shop","pod":"web-77-abcde","labels":{"app":"web","team":"a"},"workload":{"kind":"Deployment","name":"web"}},"protocol":"TCP"}`)
	code, out, errOut := call(t, "generate", "-n", "shop", "-f", seen, "--objects", objects)
	if code != 0 || !strings.Contains(out, "    matchLabels:\n      app: web\n  policyTypes:") || !strings.Contains(out, "port: http") {
		t.Errorf("exit code %d, %s:\n%s", code, errOut, out)
	}
}
