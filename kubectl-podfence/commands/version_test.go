package commands_test

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/api/build"
	"github.com/podfence/podfence/kubectl-podfence/commands"
)

// agentBuilt plays an agent of a node that was built so.
func agentBuilt(t *testing.T, node string, info build.Info) string {
	t.Helper()
	return agentOf(t, statusOf(node, func(s *answers.Status) { s.AgentVersion, s.Build = info.Version, &info }))
}

// TestVersions: the plugin's version and a row for each agent, also for one that only says its version, and one
// that says nothing.
func TestVersions(t *testing.T) {
	args := []string{
		"version",
		agentBuilt(t, "node-1", build.Info{
			Version: "v1.3.0", Commit: "0123456789abcdef0123", Modified: true, Date: "2026-03-01T12:00:00Z", GoVersion: "go1.26.1", Platform: "linux/s390x",
			Modules: map[string]string{"sigs.k8s.io/network-policy-api": "v0.3.0"},
		}),
		agentOf(t, statusOf("node-2", func(s *answers.Status) { s.AgentVersion = "v1.2.9\x1b[2J" })),
		"--agent=127.0.0.1:1",
	}
	code, out, errOut := call(t, args...)
	if code != 0 || errOut != "" || strings.Contains(out, "\x1b") || !strings.HasPrefix(out, "kubectl podfence version v1.2.3\n") {
		t.Errorf("exit code %d, %s", code, errOut)
	}
	for _, row := range [][]string{
		{"go:", runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH},
		{"NODE", "VERSION", "COMMIT", "DATE", "GO", "PLATFORM"},
		{"node-1", "v1.3.0", "0123456789ab+", "2026-03-01T12:00:00Z", "go1.26.1", "linux/s390x"},
		{"node-2", "v1.2.9^[[2J", "-", "-", "-", "-"},
		{"127.0.0.1:1", "-", "-", "-", "-", "-"},
	} {
		if !hasRow(out, row) {
			t.Errorf("no row %q", row)
		}
	}
	if !strings.Contains(out, "127.0.0.1:1: asking agent 127.0.0.1:1") || strings.Contains(out, "note:") {
		t.Error("nothing says that one has not answered, or something says more")
	}
	if t.Failed() {
		t.Log(out)
	}
	for format, read := range map[string]func([]byte, any) error{
		"json": json.Unmarshal,
		"yaml": func(text []byte, into any) error { return yaml.UnmarshalStrict(text, into) },
	} {
		_, out, _ := call(t, append(args, "-o", format)...)
		var v commands.Versions
		if err := read([]byte(out), &v); err != nil || v.APIVersion != build.APIVersion || v.Kind != "Versions" || v.Client.Version != "v1.2.3" || len(v.Agents) != 3 {
			t.Fatalf("%s: %v:\n%s", format, err, out)
		}
		if first := v.Agents[0].Build; first == nil || first.Modules["sigs.k8s.io/network-policy-api"] != "v0.3.0" || v.Agents[1].Build == nil || v.Agents[2].Build != nil || v.Agents[2].Message == "" {
			t.Errorf("%s: %+v", format, v.Agents)
		}
	}
}

// TestVersionSkew: what is more than one minor version apart is said, with the nodes, by exit code 1. The plugin
// is v1.2.3.
func TestVersionSkew(t *testing.T) {
	for _, c := range []struct {
		agents string
		says   []string // a part of each note
	}{
		{"v1.2.0", nil},
		{"v1.1.9 v1.2.3 v1.2.4-rc.1", nil},
		{"v1.3.0 v1.3.1-4-gabcdef0-dirty-01234567", nil},
		{"v1.1.0 v1.2.0 v1.3.0", []string{"Agents differ by more than one minor version: v1.1.0 on node-0, and v1.3.0 on node-2."}},
		{"v1.4.0 v1.4.1", []string{"This plugin, v1.2.3, and the agents differ by more than one minor version: v1.4.0 on node-0.", "v1.4.1 on node-1."}},
		{"v1.10.0 v1.9.0", []string{"v1.9.0 on node-1.", "v1.10.0 on node-0."}},
		{"v1.2.0 v2.2.0", []string{"Agents differ", "v2.2.0 on node-1. Use the plugin"}},
		{"0123456 dev v1.2.0", nil},
		{"0123456-dirty-01234567 1.9.0 vague", nil},
		{"v0.0.0-20260301120000-0123456789ab+dirty v1.2.0", nil},
	} {
		args := []string{"version"}
		for i, version := range strings.Fields(c.agents) {
			args = append(args, agentBuilt(t, "node-"+string(rune('0'+i)), build.Info{Version: version}))
		}
		code, out, _ := call(t, args...)
		if want := min(len(c.says), 1); code != want {
			t.Errorf("%s: exit code %d", c.agents, code)
		}
		if n := strings.Count(out, "\nnote: "); n != len(c.says) {
			t.Errorf("%s: %d notes, not %d:\n%s", c.agents, n, len(c.says), out)
		}
		for _, says := range c.says {
			if !strings.Contains(out, says) {
				t.Errorf("%s: nothing says %q:\n%s", c.agents, says, out)
			}
		}
	}
}

// TestVersionOfClient: the plugin's own version takes no cluster, and is there also if none can be asked.
func TestVersionOfClient(t *testing.T) {
	t.Setenv("KUBECONFIG", "/nonexistent")
	for _, c := range []struct {
		args string
		code int
		says string // on standard error
	}{
		{"--client", 0, ""},
		{"--client -o json", 0, ""},
		{"", 2, "--client asks for none"},
		{"-o yaml", 2, "--client asks for none"},
		{"--client --agent 127.0.0.1:9477", 2, "leave out one of them"},
		{"-o wide", 2, "json, yaml"},
	} {
		code, out, errOut := call(t, append([]string{"version"}, strings.Fields(c.args)...)...)
		if code != c.code || !strings.Contains(errOut, c.says) || c.says == "" && errOut != "" {
			t.Errorf("%q: exit code %d, %s", c.args, code, errOut)
		}
		if told := strings.Contains(out, "v1.2.3"); told != (code == 0 || c.says == "--client asks for none") {
			t.Errorf("%q: the plugin's own version is told: %v:\n%s", c.args, told, out)
		}
	}
}
