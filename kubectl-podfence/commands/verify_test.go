package commands_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/explain"
)

// town is a folder's objects: two nodes, a client on one and a server on the other, which lets it in on port 80.
const town = `apiVersion: v1
kind: Node
metadata: {name: node-1}
spec: {podCIDR: 10.1.1.0/24, podCIDRs: [10.1.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-2}
spec: {podCIDR: 10.1.2.0/24, podCIDRs: [10.1.2.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: client, labels: {app: client}}
spec: {nodeName: node-1, containers: [{name: c, image: i}]}
status: {phase: Running, podIPs: [{ip: 10.1.1.2}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: server, labels: {app: server}}
spec: {nodeName: node-2, containers: [{name: c, image: i}]}
status: {phase: Running, podIPs: [{ip: 10.1.2.2}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: server}
spec: {podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: 80}]}]}
`

// tracer plays the agent of a node whose kernel lets port 80 pass, and others if open says so. It returns the
// flag that has it asked.
func tracer(t *testing.T, node string, open func() bool) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == answers.StatusPath {
			_ = json.NewEncoder(w).Encode(answers.Status{Node: node, Ready: true})
			return
		}
		trace := answers.Trace{Node: node, Verdict: answers.Pass}
		if err := json.NewDecoder(r.Body).Decode(&trace.Question); err != nil || r.Method != http.MethodPost || r.URL.Path != answers.TracePath {
			t.Errorf("asked for %s %s: %v", r.Method, r.URL.Path, err)
		}
		if q := trace.Question; q.Src.String() != "10.1.1.2" || q.Dst.String() != "10.1.2.2" || q.Protocol != "tcp" {
			t.Errorf("asked about %+v", q)
		}
		if trace.Question.Port != 80 && !open() {
			trace.Verdict = answers.Drop
			trace.Hooks = []answers.Hook{{Hook: "forward", Steps: []answers.Step{{Chain: "ingress-server", Action: "drop", Comment: "NetworkPolicy shop/server"}}}}
		}
		_ = json.NewEncoder(w).Encode(trace)
	}))
	t.Cleanup(server.Close)
	return "--agent=" + strings.TrimPrefix(server.URL, "http://")
}

func townFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "town.yaml")
	if err := os.WriteFile(file, []byte(town), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestVerify: kernels that do as policies say confirm an answer; one that does not, or cannot be asked, ends
// with exit code 2, and both answers are shown.
func TestVerify(t *testing.T) {
	file := townFile(t)
	always, never := func() bool { return true }, func() bool { return false }
	var times atomic.Int32
	late := func() bool { return times.Add(1) == 1 } // it has not heard of the policy when it is asked first
	one, closed, opened := tracer(t, "node-1", always), tracer(t, "node-2", never), tracer(t, "node-2", always)
	for name, test := range map[string]struct {
		port   string
		agents []string
		code   int
		out    []string
		errOut string
	}{
		"allowed": {"80", []string{one, closed}, 0, []string{"ALLOWED", "kernel of node node-1 (10.1.1.2 -> 10.1.2.2): allowed; no such flow", "kernel of node node-2 (10.1.1.2 -> 10.1.2.2): allowed; no such flow"}, ""},
		"denied":  {"81", []string{one, closed}, 1, []string{"DENIED", "kernel of node node-1 (10.1.1.2 -> 10.1.2.2): allowed;", `kernel of node node-2 (10.1.1.2 -> 10.1.2.2): denied by drop in chain ingress-server of forward ("NetworkPolicy shop/server");`}, ""},
		"differs": {"81", []string{one, opened}, 2, []string{"DENIED", "kernel of node node-2 (10.1.1.2 -> 10.1.2.2) DIFFERS: it is allowed, and policies say denied"}, "the kernel of node node-2 does not do what policies say (1 of the questions differ)"},
		"late":    {"81", []string{one, tracer(t, "node-2", late)}, 1, []string{"kernel of node node-2 (10.1.1.2 -> 10.1.2.2): denied"}, ""},
		"missing": {"80", []string{one}, 2, []string{"ALLOWED", "kernel of node node-2 (10.1.1.2 -> 10.1.2.2): not verified: no agent is known of node node-2"}, "not verified on node node-2"},
		"silent":  {"80", []string{one, "--agent=127.0.0.1:1"}, 2, nil, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"explain", "-f", file, "--verify", "shop/client", "shop/server:" + test.port}, test.agents...)
			code, out, errOut := call(t, args...)
			if code != test.code || !strings.Contains(errOut, test.errOut) || test.errOut == "" && errOut != "" {
				t.Errorf("exit code %d instead of %d:\n%s%s", code, test.code, out, errOut)
			}
			for _, says := range test.out {
				if !strings.Contains(out, says) {
					t.Errorf("nothing says %q:\n%s", says, out)
				}
			}
			if _, out, _ := call(t, append(args, "-o", "json")...); len(test.out) > 0 {
				var e explain.Explanation
				if err := json.Unmarshal([]byte(out), &e); err != nil || len(e.Answers) != 1 || len(e.Answers[0].Kernel) != 2 {
					t.Errorf("%v: %s", err, out)
				}
			}
		})
	}
}

// TestWrongVerify: what kernels cannot be asked about is refused before anything is read.
func TestWrongVerify(t *testing.T) {
	file := townFile(t)
	for args, says := range map[string]string{
		"--verify shop/client shop/server":                                         "--verify is about a packet: give a port",
		"--verify shop/client shop/server:80":                                      "--verify asks agents, and --filename says of none",
		"--agent 127.0.0.1:1 shop/client shop/server:80":                           "they take --verify",
		"--verify --agent 127.0.0.1 --agent-timeout 0s shop/client shop/server:80": "--agent-timeout is 0s",
		"--verify --agent http://x shop/client shop/server:80":                     "is no address of an agent",
	} {
		code, out, errOut := call(t, append([]string{"explain", "-f", file}, strings.Fields(args)...)...)
		if code != 2 || out != "" || !strings.Contains(errOut, says) {
			t.Errorf("%s: exit code %d, or not %q:\n%s%s", args, code, says, out, errOut)
		}
	}
	// What no packet of a pod stands for is not verified.
	code, _, errOut := call(t, "explain", "-f", file, "--verify", "node/node-1", "192.0.2.1:80", tracer(t, "node-1", func() bool { return false }))
	if code != 2 || !strings.Contains(errOut, "not verified from node/node-1 to 192.0.2.1") {
		t.Errorf("exit code %d, %s", code, errOut)
	}
}
