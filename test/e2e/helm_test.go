//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/test/check"
)

// TestHelm does what docs/UPGRADING.md says: a Helm release takes over what kubectl has applied, by either way; a
// value is changed, and taken back; and kubectl takes over what Helm has. Nothing that is allowed breaks meanwhile,
// nothing that is denied passes, and the nodes' tables are there all the time. Agents are replaced by changes of
// their arguments alone.
func TestHelm(t *testing.T) {
	shell := newDocumented(t)
	t.Cleanup(func() {
		shell.forget(t)
		applyOverlay(t, "default")
		agentsReady(t)
	})
	applyOverlay(t, "default") // by kubectl, as README has it
	agentsReady(t)
	g := keepGoing(t)
	tables := watchTables(t)

	for _, marked := range []bool{false, true} {
		before := agents(t)
		if marked {
			shell.run(t, "mark")
			shell.command(t, strings.ReplaceAll(shell.text(t, "to helm"), "--take-ownership", ""))
		} else {
			shell.run(t, "to helm")
		}
		shell.expectRelease(t, "deployed")
		if now := agents(t); !maps.Equal(now, before) {
			t.Errorf("a release that takes over what there is has replaced agents: %v, now %v", before, now)
		}
		shell.command(t, shell.text(t, "as the overlay")+" --set log.level=debug")
		agentsReady(t)
		if now := agents(t); maps.Equal(now, before) || !slices.Contains(agentArgs(t), "--log-level=debug") {
			t.Errorf("a value that changes the agents has not come to them: %v, with %q", now, agentArgs(t))
		}
		g.expectNewPod(t, fmt.Sprintf("by-helm-%v", marked))

		shell.run(t, "as the overlay")
		agentsReady(t)
		before = agents(t)
		shell.run(t, "to kustomize")
		shell.run(t, "forget")
		shell.expectRelease(t, "")
		agentsReady(t)
		if now := agents(t); !maps.Equal(now, before) || slices.Contains(agentArgs(t), "--log-level=debug") {
			t.Errorf("kubectl that takes over has replaced agents, or a value stays: %v, now %v, with %q", before, now, agentArgs(t))
		}
		for key, value := range agentDaemonSet(t).Labels {
			if value == "Helm" {
				t.Errorf("the DaemonSet still has the label %s of Helm's", key)
			}
		}
		// What is applied next comes through, though Helm has had the fields.
		shell.command(t, shell.text(t, "to kustomize"), "--deny=reject")
		agentsReady(t)
		if args := agentArgs(t); args[len(args)-1] != "--deny=reject" {
			t.Errorf("what was applied after that has not come through: %q", args)
		}
		shell.run(t, "to kustomize")
		agentsReady(t)
		g.expectNewPod(t, fmt.Sprintf("by-kustomize-%v", marked))
	}
	tables.check(t)
	g.check(t)
}

// expectNewPod starts a server, which must be connected and fenced.
func (g *goesOn) expectNewPod(t *testing.T, name string) {
	t.Helper()
	pod := start(t, newPod(g.namespace, name, on("node2"), labelled("app", "server")))[0]
	expectWays(t, "a new pod to be connected and fenced", ways("friend", netnsOf(t, g.friends[0]), podIPs(pod), 8080, 0),
		ways("stranger", netnsOf(t, g.strangers[0]), podIPs(pod), 8080, 0))
}

// agentArgs are the arguments that the DaemonSet gives the agents.
func agentArgs(t *testing.T) []string {
	t.Helper()
	return agentDaemonSet(t).Spec.Template.Spec.Containers[0].Args
}

// documented runs the commands of docs/UPGRADING.md by a shell that has the cluster's kubectl and helm.
type documented struct {
	document, programs string
}

// newDocumented builds helm.
func newDocumented(t *testing.T) *documented {
	t.Helper()
	d := &documented{programs: t.TempDir()}
	text := check.Value(os.ReadFile("../../docs/UPGRADING.md"))(t)
	d.document = string(text)
	out, err := exec.CommandContext(t.Context(), "go", "-C", "../tools", "tool", "-n", "helm").Output()
	if err != nil {
		t.Fatalf("building helm: %v", err)
	}
	for name, program := range map[string]string{"helm": strings.TrimSpace(string(out)), "kubectl": filepath.Join(theCluster.Bin, "kubectl")} {
		beside := theCluster.BesideKubectl(context.Background(), program)
		script := "#!/bin/sh\nexec " + strings.Join(beside.Args, " ") + " \"$@\"\n"
		if err := os.WriteFile(filepath.Join(d.programs, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// text are the commands of the document behind a comment, for this tree's chart and the image that the cluster has.
func (d *documented) text(t *testing.T, name string) string {
	t.Helper()
	block := regexp.MustCompile(`(?m)^ *<!-- run: ` + name + ` -->\n\n((?: {7}.*\n)+)`).FindStringSubmatch(d.document)
	if block == nil {
		t.Fatalf("docs/UPGRADING.md has no commands %q", name)
	}
	commands := strings.TrimSpace(block[1])
	const chart = "oci://ghcr.io/podfence/charts/podfence --version VERSION"
	if strings.Contains(commands, "helm ") && !strings.Contains(commands, chart) {
		t.Fatalf("the commands %q do not name the chart as %s:\n%s", name, chart, commands)
	}
	at := strings.LastIndexByte(theImage, ':')
	return strings.ReplaceAll(commands, chart, fmt.Sprintf("../../charts/podfence --set image.repository=%s --set image.tag=%s", theImage[:at], theImage[at+1:]))
}

// run runs commands of the document.
func (d *documented) run(t *testing.T, name string) {
	t.Helper()
	d.command(t, d.text(t, name))
}

// command runs commands. What is applied has these arguments for the agents besides.
func (d *documented) command(t *testing.T, commands string, args ...string) {
	t.Helper()
	overlay := withImage(t, "../../config/default", theImage)
	if len(args) > 0 {
		file := filepath.Join(overlay, "kustomization.yaml")
		text := string(check.Value(os.ReadFile(file))(t)) + "patches:\n- target: {kind: DaemonSet, name: podfence-agent}\n  patch: |-\n"
		for _, arg := range args {
			text += "    - op: add\n      path: /spec/template/spec/containers/0/args/-\n      value: " + arg + "\n"
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sh", "-e", "-c", strings.ReplaceAll(commands, "OVERLAY", overlay))
	home := t.TempDir() // no one's plugins and repositories
	cmd.Env = append(os.Environ(), "PATH="+d.programs+":"+os.Getenv("PATH"), "KUBECONFIG="+theCluster.AdminConfig(),
		"HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s\n%v:\n%s", commands, err, out)
	}
}

// forget removes what there is of a release, whatever has happened.
func (d *documented) forget(t *testing.T) {
	t.Helper()
	kubectl(t, "--namespace", agentNamespace, "delete", "secrets", "-l", "owner=helm,name=podfence")
}

// expectRelease expects that the last revision of the release is so; empty: there is none.
func (d *documented) expectRelease(t *testing.T, want string) {
	t.Helper()
	secrets, err := client.CoreV1().Secrets(agentNamespace).List(context.Background(), metav1.ListOptions{LabelSelector: "owner=helm,name=podfence"})
	if err != nil {
		t.Fatal(err)
	}
	got, last := "", metav1.Time{}
	for _, secret := range secrets.Items {
		if secret.Type == corev1.SecretType("helm.sh/release.v1") && !secret.CreationTimestamp.Before(&last) {
			got, last = secret.Labels["status"], secret.CreationTimestamp
		}
	}
	if got != want {
		t.Errorf("the release is %q, not %q", got, want)
	}
}

// tableWatch looks whether podfence's tables are on all nodes.
type tableWatch struct {
	stop func()
	mu   sync.Mutex
	seen int
	gone []string
}

// watchTables begins. Who calls check ends it.
func watchTables(t *testing.T) *tableWatch {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &tableWatch{}
	var wait sync.WaitGroup
	w.stop = func() { cancel(); wait.Wait() }
	t.Cleanup(w.stop)
	for _, node := range bothNodes {
		wait.Go(func() {
			for tick := time.NewTicker(100 * time.Millisecond); ; {
				select {
				case <-ctx.Done():
					tick.Stop()
					return
				case <-tick.C:
				}
				var out []byte
				cmd, err := theCluster.Exec(ctx, node, "nft", "list", "tables")
				if err == nil {
					out, err = cmd.Output()
				}
				if ctx.Err() != nil {
					continue // the answer is that of a program that was ended
				}
				w.mu.Lock()
				w.seen++
				if text := string(out); err != nil || !strings.Contains(text, "table inet podfence\n") || !strings.Contains(text, "table bridge podfence\n") {
					w.gone = append(w.gone, fmt.Sprintf("%s %s: %v: %s", time.Now().Format("15:04:05.000"), node, err, text))
				}
				w.mu.Unlock()
			}
		})
	}
	return w
}

// check fails the test if one was missing once.
func (w *tableWatch) check(t *testing.T) {
	t.Helper()
	w.stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen < 100 || len(w.gone) > 0 {
		t.Errorf("looked %d times, and tables were missing %d times: %v", w.seen, len(w.gone), w.gone)
	}
	t.Logf("looked %d times: the tables were there", w.seen-len(w.gone))
}
