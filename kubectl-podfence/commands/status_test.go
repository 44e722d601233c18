package commands_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/kubectl-podfence/commands"
)

// agentOf plays an agent, and returns the flag that has it asked.
func agentOf(t *testing.T, status answers.Status) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/v1/status" {
			t.Errorf("asked for %s %s", r.Method, r.URL.Path)
		}
		if err := json.NewEncoder(w).Encode(status); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	return "--agent=" + strings.TrimPrefix(server.URL, "http://")
}

// statusOf is how an agent is that is ready, but for what is changed.
func statusOf(node string, change func(*answers.Status)) answers.Status {
	now := time.Now()
	s := answers.Status{
		AgentVersion: "v1.4.0", Node: node, Started: now.Add(-26 * time.Hour), Options: answers.Options{CNI: "bridge"}, Ready: true, OwnsTables: true,
		LastCommit: &answers.Commit{Time: now.Add(-42 * time.Second), DurationSeconds: 0.0032}, Pods: answers.Pods{Fenced: 12, Isolated: 3},
		Policies: answers.Policies{Total: 30, Active: 2},
	}
	change(&s)
	return s
}

func refused(namespace, name, field string) answers.PolicyProblem {
	return answers.PolicyProblem{Kind: "NetworkPolicy", Namespace: namespace, Name: name, Field: field, Reason: "the kernel refuses it", Refused: true}
}

func unreadable(namespace, name, field string) answers.PolicyProblem {
	return answers.PolicyProblem{Kind: "NetworkPolicy", Namespace: namespace, Name: name, Field: field, Reason: "no CIDR"}
}

// TestStatus: a row for each node, and each problem once, with the nodes that have it.
func TestStatus(t *testing.T) {
	args := []string{
		"status",
		agentOf(t, statusOf("node-1", func(s *answers.Status) {
			s.Policies.Quarantined, s.Policies.Unreadable, s.Policies.WithProblems = 1, 1, 2
			s.Policies.Problems = []answers.PolicyProblem{unreadable("shop", "web", "spec.ingress[0].from[1]"), unreadable("shop", "web", "spec.ingress[2].from[0]"), refused("other", "large", "")}
		})),
		agentOf(t, statusOf("node-2", func(s *answers.Status) {
			before := time.Now().Add(-time.Minute)
			s.Ready, s.OwnsTables, s.Repairs = false, false, answers.Repairs{Count: 4, Last: &before}
			s.Conditions = []answers.Condition{{Name: "Tampering", Message: "others change its table \x1b[2J"}}
			s.Policies.Unreadable, s.Policies.WithProblems = 1, 1
			s.Policies.Problems = []answers.PolicyProblem{unreadable("shop", "web", "spec.ingress[0].from[1]")}
			s.Pods.Waiting = 1
			s.Waiting = []answers.WaitingPod{{Namespace: "shop", Name: "web-1", Reason: "its rules are not in the kernel"}}
		})),
		"--agent=127.0.0.1:1",
	}
	code, out, errOut := call(t, args...)
	if code != 1 || errOut != "" || strings.Contains(out, "\x1b") {
		t.Errorf("exit code %d, %s", code, errOut)
	}
	for _, row := range [][]string{
		{"NODE", "STATE", "VERSION", "TABLE", "COMMITTED", "PODS", "POLICIES", "REFUSED", "UNREADABLE", "REPAIRS", "WAITING"},
		{"node-1", "Ready", "v1.4.0", "owned", "42s", "12", "30", "1", "1", "0", "0"},
		{"node-2", "NotReady", "v1.4.0", "unowned", "42s", "12", "30", "0", "1", "4", "1"},
		{"-", "NoAnswer", "-", "-", "-", "-", "-", "-", "-", "-", "-"},
		{"POLICY", "PROBLEM", "NODES", "FIELD", "REASON"},
		{"NetworkPolicy", "other/large", "refused", "node-1", "-", "the", "kernel", "refuses", "it"},
		{"NetworkPolicy", "shop/web", "unreadable", "2", "of", "3", "spec.ingress[0].from[1]", "no", "CIDR"},
		{"NetworkPolicy", "shop/web", "unreadable", "node-1", "spec.ingress[2].from[0]", "no", "CIDR"},
	} {
		if !hasRow(out, row) {
			t.Errorf("no row %q", row)
		}
	}
	for _, says := range []string{
		"node-2 NotReady: Tampering: others change its table ^[[2J", "node-2: pod shop/web-1 waits: its rules are not in the kernel",
		"127.0.0.1:1 NoAnswer: asking agent 127.0.0.1:1 for /v1/status:", "connection refused",
	} {
		if !strings.Contains(out, says) {
			t.Errorf("nothing says %q", says)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
	formats(t, args)
}

// hasRow reports whether a text has a line of these words.
func hasRow(text string, words []string) bool {
	for line := range strings.Lines(text) {
		if strings.Join(strings.Fields(line), " ") == strings.Join(words, " ") {
			return true
		}
	}
	return false
}

// formats: the same status as wide tables, as JSON, of one namespace, and without headers.
func formats(t *testing.T, args []string) {
	_, wide, _ := call(t, append(args, "-o", "wide", "--no-headers")...)
	if !strings.Contains(wide, "3.2ms") || !strings.Contains(wide, "bridge") || !strings.Contains(wide, "26h") || strings.Contains(wide, "NODE") {
		t.Errorf("-o wide --no-headers:\n%s", wide)
	}
	for scope, problems := range map[string]int{"-nshop": 2, "-nother": 1, "-nnone": 0, "-nshop -A": 3} {
		code, out, _ := call(t, append(append(args, "-o", "json"), strings.Fields(scope)...)...)
		var s commands.Status
		if err := json.Unmarshal([]byte(out), &s); err != nil || code != 1 || s.APIVersion != commands.StatusAPIVersion || s.Kind != "Status" {
			t.Fatalf("%s: exit code %d, %v:\n%s", scope, code, err, out)
		}
		if len(s.Problems) != problems {
			t.Errorf("%s: %d problems instead of %d", scope, len(s.Problems), problems)
		}
		if s.Summary.Nodes != 3 || s.Summary.Ready != 1 || s.Summary.NotReady != 1 || s.Summary.NoAnswer != 1 || s.Summary.Pods != 24 || s.Summary.Waiting != 1 || s.Summary.Versions["v1.4.0"] != 2 {
			t.Errorf("%s: %+v", scope, s.Summary)
		}
		if s.Nodes[0].Answer == nil || s.Nodes[0].Answer.Pods.Fenced != 12 || s.Nodes[2].Answer != nil {
			t.Errorf("%s: %+v", scope, s.Nodes)
		}
	}
}

// TestStatusOfMany: of many nodes there is a summary and those that are not ready, unless all are asked for.
func TestStatusOfMany(t *testing.T) {
	args := []string{"status"}
	for i := range 30 {
		args = append(args, agentOf(t, statusOf(fmt.Sprintf("node-%d", i), func(s *answers.Status) { s.Ready = i != 7 })))
	}
	code, out, _ := call(t, args...)
	if code != 1 || !strings.HasPrefix(out, "30 nodes: 29 ready, 1 not ready\nversions: v1.4.0 (30)\npods: 360,") || !strings.Contains(out, "node-7 ") || strings.Contains(out, "node-8 ") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if _, out, _ = call(t, append(args, "-o", "wide")...); !strings.Contains(out, "node-8 ") || strings.Contains(out, "30 nodes") {
		t.Errorf("-o wide:\n%s", out)
	}
	if code, out, errOut := call(t, "status", args[1]); code != 0 || !strings.Contains(out, "node-0 ") {
		t.Errorf("one that is ready: exit code %d:\n%s%s", code, out, errOut)
	}
}

// TestStatusStaged: it says how many policies are staged, as the node knows that knows most, and about how many pods of
// all nodes; and nothing of it where none is.
func TestStatusStaged(t *testing.T) {
	staged := func(policies, pods int) func(*answers.Status) {
		return func(s *answers.Status) { s.Policies.Staged, s.Pods.Staged = policies, pods }
	}
	args := []string{"status", agentOf(t, statusOf("node-1", staged(2, 3))), agentOf(t, statusOf("node-2", staged(1, 4)))}
	code, out, errOut := call(t, args...)
	if code != 0 || !strings.Contains(out, "note: 2 policies of the cluster are staged, and not in force; they are about 7 pods of these nodes.") {
		t.Errorf("exit code %d, %s:\n%s", code, errOut, out)
	}
	_, out, _ = call(t, append(args, "-o", "json")...)
	var s commands.Status
	if err := json.Unmarshal([]byte(out), &s); err != nil || s.Summary.Staged != 2 || s.Summary.StagedPods != 7 || s.Nodes[1].Answer.Pods.Staged != 4 {
		t.Errorf("%v:\n%s", err, out)
	}
	if _, out, _ := call(t, append(args, "-o", "wide")...); !strings.Contains(out, "STAGED-PODS") {
		t.Errorf("-o wide:\n%s", out)
	}
	if _, out, _ := call(t, "status", agentOf(t, statusOf("node-1", staged(0, 0)))); strings.Contains(strings.ToLower(out), "staged") {
		t.Errorf("none is staged:\n%s", out)
	}
}

// TestStatusTimeout: an agent that is silent costs no more than its timeout.
func TestStatusTimeout(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	begun := time.Now()
	code, out, _ := call(t, "status", "--agent", silent.Addr().String(), "--agent-timeout", "100ms")
	if code != 1 || !strings.Contains(out, "no answer within 100ms") || time.Since(begun) > 5*time.Second {
		t.Errorf("exit code %d after %s:\n%s", code, time.Since(begun), out)
	}
	for _, wrong := range [][]string{{"--agent-timeout", "0s"}, {"--agent", "http://x"}, {"-o", "name"}} {
		if code, out, errOut := call(t, append([]string{"status"}, wrong...)...); code != 2 || out != "" || errOut == "" {
			t.Errorf("%v: exit code %d, %s%s", wrong, code, out, errOut)
		}
	}
}

// statuses: nodes of a cluster without an agent, and whose agent cannot be asked, are rows that say so.
func statuses(t *testing.T, api *kubernetes.Clientset, call func(...string) (int, string, string)) {
	if code, out, errOut := call("status"); code != 1 || !hasRow(out, strings.Fields("node-1 NoAgent - - - - - - - - -")) || !strings.Contains(out, "node-1 NoAgent: there is no pod of an agent on it") {
		t.Errorf("without an agent: exit code %d:\n%s%s", code, out, errOut)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "agent-1", Labels: map[string]string{"app.kubernetes.io/name": "podfence", "app.kubernetes.io/component": "agent"}},
		Spec:       corev1.PodSpec{NodeName: "node-1", HostNetwork: true, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	pod, err := api.CoreV1().Pods("shop").Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if code, out, errOut := call("status"); code != 1 || !strings.Contains(out, "node-1 NoAgent: its agent's pod does not run (phase Pending)") {
		t.Errorf("a pod that does not run: exit code %d:\n%s%s", code, out, errOut)
	}
	pod.Status.Phase = corev1.PodRunning
	if _, err := api.CoreV1().Pods("shop").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	code, out, errOut := call("status", "--agents-in", "shop", "--agent-timeout", "2s")
	if code != 1 || !strings.Contains(out, "node-1 NoAnswer: asking agent shop/agent-1 for /v1/status: port-forward:") {
		t.Errorf("an agent that cannot be asked: exit code %d:\n%s%s", code, out, errOut)
	}
	code, _, errOut = call("status", "--as", "nobody")
	if code != 2 || !strings.Contains(errOut, "listing the agents' pods") || !strings.Contains(errOut, "--agents-in") {
		t.Errorf("who may not list pods: exit code %d, %s", code, errOut)
	}
}

// TestStatusIsCut: if agents list fewer policies than have problems, that is said, and how to see the others;
// and an agent that is of another node than the one that was asked is no answer.
func TestStatusIsCut(t *testing.T) {
	cut := statusOf("node-1", func(s *answers.Status) {
		s.Policies.WithProblems, s.Policies.Unreadable = 150, 150
		s.Policies.Problems = []answers.PolicyProblem{{Kind: "NetworkPolicy", Namespace: "shop", Name: "web", Field: "spec.ingress[4]", Reason: "no CIDR", More: 9}}
	})
	_, out, _ := call(t, "status", agentOf(t, cut))
	for _, says := range []string{"no CIDR (and 9 more)", "note: 150 policies have problems, of which agents list no more than 100"} {
		if !strings.Contains(out, says) {
			t.Errorf("nothing says %q:\n%s", says, out)
		}
	}
}
