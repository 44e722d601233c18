package commands_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/explain"
)

// liveAgent plays an agent that answers each question with the same lines.
type liveAgent struct {
	answers []answers.LiveCuts
	busy    int // how many questions it refuses first

	mu    sync.Mutex
	asked []answers.LiveQuestion
}

// start starts it, and returns the flag that has it asked.
func (a *liveAgent) start(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		var q answers.LiveQuestion
		if err = errors.Join(err, json.Unmarshal(text, &q)); err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/live" {
			t.Errorf("asked for %s %s: %s: %v", r.Method, r.URL.Path, text, err)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.busy > 0 {
			a.busy--
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		a.asked = append(a.asked, q)
		for _, line := range a.answers {
			if err = json.NewEncoder(w).Encode(line); err != nil {
				t.Error(err)
			}
			if _, err = io.WriteString(w, "\n"); err != nil {
				t.Error(err)
			}
		}
	}))
	t.Cleanup(server.Close)
	return "--agent=" + strings.TrimPrefix(server.URL, "http://")
}

// workload is an end of connections.
func workload(kind, namespace, name, ip string) answers.LiveEnd {
	return answers.LiveEnd{
		Kind: kind, Namespace: namespace, Name: name, Pod: name + "-7d9f-abcde", Address: netip.MustParseAddr(ip),
		Labels: map[string]string{"app": name, "pod-template-hash": "7d9f"},
	}
}

// livePolicies are what is new of the examples: a default deny of shop, and what isolates the database.
const livePolicies = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: default-deny}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: data, name: db}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{namespaceSelector: {matchLabels: {team: billing}}}]}]
`

// liveExample is what two agents answer about them.
func liveExample() (one, two answers.LiveCuts) {
	cart, db := workload("Deployment", "shop", "cart", "10.244.1.7"), workload("StatefulSet", "data", "db", "10.244.2.3")
	outside := answers.LiveEnd{Kind: "Address", Address: netip.MustParseAddr("203.0.113.10")}
	policyOf := func(namespace, name string) []answers.CutPolicy {
		return []answers.CutPolicy{{Kind: "NetworkPolicy", Namespace: namespace, Name: name}}
	}
	seen := time.Now().Add(-5 * time.Hour)
	egress := answers.Cut{
		Source: cart, Destination: db, Protocol: "TCP", Port: 5432, Direction: "egress", Reason: "default-deny", Text: "isolated by NetworkPolicy shop/default-deny",
		Policies: policyOf("shop", "default-deny"), Flows: 10, CountedFlows: 10, Bytes: 7 << 20, LastSeen: seen,
	}
	more := egress
	more.Flows, more.CountedFlows, more.Bytes, more.LastSeen = 2, 2, 1<<20, seen.Add(-time.Hour)
	out := egress
	out.Destination, out.Port, out.Flows, out.CountedFlows, out.Bytes, out.LastSeen = outside, 443, 1, 0, 0, time.Time{}
	ingress := egress
	ingress.Direction, ingress.Text, ingress.Policies, ingress.Flows, ingress.CountedFlows = "ingress", "isolated by NetworkPolicy data/db", policyOf("data", "db"), 12, 12
	ingress.Bytes = 8 << 20
	one = answers.LiveCuts{Node: "node-1", Open: 240, Counts: true, Done: true, Cuts: []answers.Cut{egress, out}}
	two = answers.LiveCuts{Node: "node-2", Open: 310, Counts: true, Done: true, Cuts: []answers.Cut{ingress, more}}
	return one, two
}

// files writes what is new, and what was before, and returns the flags for them.
func files(t *testing.T, now, before string) []string {
	t.Helper()
	folder := t.TempDir()
	for name, text := range map[string]string{"new.yaml": now, "old.yaml": before} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"diff", "--live", "-f", filepath.Join(folder, "new.yaml"), "--against", filepath.Join(folder, "old.yaml")}
}

const goingPolicy = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: data, name: going}
spec: {podSelector: {}}
`

// TestLive: agents are told what changes, and no more; what they answer is put together by workloads, with the rules
// that would have to be added, as docs/KUBECTL.md shows it.
func TestLive(t *testing.T) {
	one, two := liveExample()
	first, second := &liveAgent{answers: []answers.LiveCuts{{Node: "node-1"}, one}, busy: 1}, &liveAgent{answers: []answers.LiveCuts{two}}
	args := append(files(t, livePolicies, goingPolicy+"---\n"+livePolicies[:strings.Index(livePolicies, "---")]), first.start(t), second.start(t))
	code, out, errOut := call(t, args...)
	if code != 1 || errOut != "" {
		t.Errorf("exit code %d: %s", code, errOut)
	}
	if q := first.asked[0]; len(q.Changed) != 1 || !strings.Contains(string(q.Changed[0]), `"name":"db"`) || q.Seconds != 0 ||
		!slices.Equal(q.Removed, []answers.LiveObject{{Kind: "NetworkPolicy", Namespace: "data", Name: "going"}}) {
		t.Errorf("the agent was asked: %s, %+v", q.Changed, q)
	}
	page, err := os.ReadFile("../../docs/KUBECTL.md")
	if err != nil || !strings.Contains(string(page), "$ kubectl podfence diff --live -f policies/\n"+out) {
		t.Errorf("docs/KUBECTL.md does not show: %v\n%s", err, out)
	}
	code, out, _ = call(t, append(args, "-o", "json", "--for", "10m")...)
	var d explain.LiveDiff
	if err := json.Unmarshal([]byte(out), &d); err != nil || code != 1 || d.Kind != explain.LiveDiffKind || d.Pairs != 2 || d.Open != 550 || len(d.Cuts) != 3 || len(d.Rules) != 2 {
		t.Errorf("exit code %d, %v: %s", code, err, out)
	}
	if q := first.asked[1]; q.Seconds != 600 {
		t.Errorf("with --for 10m the agent was asked for %d s", q.Seconds)
	}
	if c := d.Cuts[1]; c.Direction != "egress" || c.Flows != 12 || c.Bytes != 8<<20 || !slices.Equal(c.Nodes, []string{"node-1", "node-2"}) {
		t.Errorf("what two nodes have seen: %+v", c)
	}
}

// TestLiveExitCodes: 0 if nothing would be cut, and 2, whatever would be, if an agent has not told all.
func TestLiveExitCodes(t *testing.T) {
	one, _ := liveExample()
	nothing := &liveAgent{answers: []answers.LiveCuts{{Node: "node-1", Open: 3, Counts: true, Done: true}}}
	broken := &liveAgent{answers: []answers.LiveCuts{{Node: "node-2", Message: "no more"}}}
	short := &liveAgent{answers: []answers.LiveCuts{{Node: "node-2"}}}
	cuts := &liveAgent{answers: []answers.LiveCuts{one}}
	call0 := func(flags ...string) (int, string, string) {
		return call(t, append(files(t, livePolicies, goingPolicy), flags...)...)
	}
	if code, out, errOut := call0(nothing.start(t)); code != 0 || out != "Nothing would be cut: of 3 open connections on 1 node.\n" || errOut != "" {
		t.Errorf("exit code %d: %s%s", code, out, errOut)
	}
	for name, agent := range map[string]string{"one that fails later": broken.start(t), "one that ends too soon": short.start(t), "none": "--agent=127.0.0.1:1"} {
		code, out, errOut := call0(cuts.start(t), agent)
		if code != 2 || !strings.Contains(out, "deploy/shop/cart") || !strings.Contains(errOut, "not all is known") {
			t.Errorf("%s: exit code %d: %s%s", name, code, out, errOut)
		}
	}
	for _, wrong := range [][]string{{"diff", "-f", "x", "--for", "10m"}, {"diff", "-f", "x", "--agent", "a"}, {"diff", "--live", "-f", "x", "--for", "2h"}, {"diff", "--live", "-f", "x", "--for", "-1s"}, {"diff", "--live"}} {
		if code, _, errOut := call(t, wrong...); code != 2 || errOut == "" {
			t.Errorf("%v: exit code %d: %s", wrong, code, errOut)
		}
	}
}
