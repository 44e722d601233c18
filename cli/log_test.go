package cli

import (
	"encoding/json"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// The log tells the story of a start: what was started, and what is in force, a line each;
// of what runs inside the agent, nothing.
func TestLogOfAStart(t *testing.T) {
	a := newAgents(t)
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	agent, lines := a.start("--log-format", "json", "--deny", "reject", "--pod-to-node", "allow", "--health-address", "127.0.0.1:9479", "--metrics-address", "127.0.0.1:9478")
	type line struct {
		Level, Msg, Logger string
		Version, Kernel    string
		CNI, Deny          string
		PodToNode, Source  string
		Pods, Policies     int
		Elements           int
		PodCIDRs           any
		Took               string
	}
	var story []line
	for text := range lines {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if story = append(story, l); strings.Contains(text, `"ready":true`) {
			_ = agent.Process.Signal(syscall.SIGTERM)
		}
	}
	if err := agent.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	find := func(message string) (found []line) {
		for _, l := range story {
			if l.Msg == message {
				found = append(found, l)
			}
		}
		return found
	}
	for _, l := range story {
		if l.Logger != "" && strings.HasPrefix(l.Logger, "controller-runtime") || strings.Contains(strings.ToLower(l.Msg), "starting server") || strings.Contains(l.Msg, "unnables") {
			t.Errorf("of no use to anybody: %+v", l)
		}
	}
	if start := find("Starting"); len(start) != 1 || start[0].CNI != "none" || start[0].Deny != "reject" || start[0].PodToNode != "allow" ||
		start[0].PodCIDRs != "closed" || start[0].Version != version || start[0].Kernel == "" || start[0].Source != a.folder {
		t.Errorf("what was started: %+v", start)
	}
	if first := find("Replaced the table"); len(first) != 1 || first[0].Pods != 2 || first[0].Policies == 0 || first[0].Elements == 0 || first[0].Took == "" || first[0].PodCIDRs == nil {
		t.Errorf("what is in force: %+v", first)
	}
	if not := find("Not ready"); len(not) != 1 || not[0].Level != "warn" {
		t.Errorf("before it is ready: %+v", not)
	}
}

// With --log-level warn only what somebody should look into is said.
func TestLogLevelWarn(t *testing.T) {
	a := newAgents(t)
	agent, lines := a.start("--log-level", "warn")
	a.await(lines, "Not ready")
	a.ready()
	_ = agent.Process.Signal(syscall.SIGTERM)
	for line := range lines {
		if strings.Contains(line, "INFO") || strings.Contains(line, "Replaced") {
			t.Errorf("it says %s", line)
		}
	}
	if err := agent.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// A debug line of a commit names the pods and policies that it was for.
func TestLogOfACommit(t *testing.T) {
	a := newAgents(t)
	agent, lines := a.start("--log-level", "debug")
	a.await(lines, "Replaced the table")
	write(t, a.folder+"/more.yaml", `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: extra, namespace: shop}
spec: {podSelector: {matchLabels: {app: backend}}, policyTypes: [Ingress]}
`)
	if line := a.await(lines, "\tCommitted\t"); !strings.Contains(line, "shop/extra") || !strings.Contains(line, "shop/backend") {
		t.Errorf("it does not say what it was for: %s", line)
	}
	_ = agent.Process.Signal(syscall.SIGTERM)
	for range lines {
	}
	if err := agent.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// What the environment says in vain is said, once, by name; what it says as the command
// line does, or where that says nothing, is not.
func TestLogOfWhatTheEnvironmentSaysInVain(t *testing.T) {
	t.Setenv("PODFENCE_DENY", "reject")
	t.Setenv("PODFENCE_POD_TO_NODE", "allow")
	t.Setenv("PODFENCE_PPROF_ADDRESS", "0")
	t.Setenv("PODFENCE_REVOKED_MARK", "0x10000000")
	a := newAgents(t)
	agent, lines := a.start("--deny", "drop", "--pod-to-node", "allow")
	if line := a.await(lines, "The environment says otherwise"); !strings.Contains(line, `["PODFENCE_DENY"]`) {
		t.Errorf("it says %s", line)
	}
	a.await(lines, "Replaced the table")
	_ = agent.Process.Signal(syscall.SIGTERM)
	for range lines {
	}
	if err := agent.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}
