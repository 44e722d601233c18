package cli

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asMain, in the environment, has the test binary be podfence, as main makes it.
const asMain = "TEST_BINARY_IS_PODFENCE"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		code := Main(ctx, version)
		stop()
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// podfence is a process in a network namespace of its own.
func podfence(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a network namespace needs root: skipped")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), asMain+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	return cmd
}

// agents are processes in one network namespace.
type agents struct {
	t      *testing.T
	folder string
}

// newAgents moves the test's thread into a namespace of its own; a child is in that
// of the thread that starts it.
func newAgents(t *testing.T) *agents {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a network namespace needs root: skipped")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	return &agents{t, samples(t)}
}

func (a *agents) podfence(args ...string) *exec.Cmd {
	a.t.Helper()
	cmd := podfence(a.t, args...)
	cmd.SysProcAttr = nil
	return cmd
}

// start starts an agent, and returns its log line by line.
func (a *agents) start(args ...string) (*exec.Cmd, <-chan string) {
	a.t.Helper()
	cmd := a.podfence(append([]string{"agent", "--node-name", "node-1", "--manifests", a.folder, "--metrics-address", "0", "--health-address", "0", "--query-address", "0", "--hubble-address", "0"}, args...)...)
	logs, err := cmd.StderrPipe()
	if err != nil {
		a.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(logs); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	return cmd, lines
}

// TestDropLogIsAlone: with the drop log on standard output, nothing else is there.
func TestDropLogIsAlone(t *testing.T) {
	a := newAgents(t)
	cmd := a.podfence("agent", "--node-name", "node-1", "--manifests", a.folder, "--metrics-address", "0", "--health-address", "0", "--query-address", "0", "--drop-log", "stdout", "--log-level", "debug")
	var out bytes.Buffer
	cmd.Stdout = &out
	logs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := false
	for lines := bufio.NewScanner(logs); lines.Scan(); {
		if !said && strings.Contains(lines.Text(), "Replaced the table") {
			said = true
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil || !said || out.Len() > 0 {
		t.Errorf("%v; its log is on standard error: %t; standard output has\n%s", err, said, &out)
	}
}

// await waits for a line of a log.
func (a *agents) await(lines <-chan string, text string) string {
	a.t.Helper()
	var all []string
	for line := range lines {
		if all = append(all, line); strings.Contains(line, text) {
			return line
		}
	}
	a.t.Fatalf("the agent has not said %q:\n%s", text, strings.Join(all, "\n"))
	return ""
}

func (a *agents) table() string {
	a.t.Helper()
	out, err := exec.Command("nft", "-s", "list", "table", "inet", "podfence").CombinedOutput()
	if err != nil {
		a.t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// Two agents overlap, the first is killed, the second stops: there is always a
// table, and what would remove it while an agent runs is refused or undone.
func TestProcessesHandTheTableOver(t *testing.T) {
	a := newAgents(t)
	first, firstLog := a.start()
	owns := strings.Contains(a.await(firstLog, "Starting"), `"ownsTable": true`)
	a.await(firstLog, "Replaced the table")
	before := a.table()
	uninstall := append([]string{"uninstall"}, uninstallFolders(t)...)
	refused := a.podfence(uninstall...)
	out, err := refused.CombinedOutput()
	if err == nil || refused.ProcessState.ExitCode() != exitRefused || !strings.Contains(string(out), "stop it first") {
		t.Errorf("uninstall beside an agent: %v: %s", err, out)
	}
	if a.table() != before {
		t.Errorf("after uninstall beside an agent:\n%s\nbefore:\n%s", a.table(), before)
	}

	second, secondLog := a.start()
	if owns {
		if line := a.await(secondLog, "Cannot commit"); !strings.Contains(line, "another process owns the table") {
			t.Errorf("the second says %s", line)
		}
		if a.table() != before {
			t.Errorf("beside a second agent:\n%s\nbefore:\n%s", a.table(), before)
		}
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	if rules := a.table(); !strings.Contains(rules, "hook forward") {
		t.Errorf("the first was killed, and left\n%s", rules)
	}
	a.await(secondLog, "Replaced the table")
	if !owns {
		_ = second.Process.Kill() // enough of it
	} else if a.table() != before {
		t.Errorf("taken over:\n%s\nbefore:\n%s", a.table(), before)
	}
	_ = second.Process.Signal(syscall.SIGTERM)
	for range secondLog {
	}
	if err := second.Wait(); err != nil && owns {
		t.Errorf("the second ended with %v", err)
	}
	if rules := a.table(); !strings.Contains(rules, "hook forward") {
		t.Errorf("the second stopped, and left\n%s", rules)
	}
	if out, err := a.podfence(uninstall...).CombinedOutput(); err != nil {
		t.Errorf("uninstall, without an agent: %v: %s", err, out)
	}
	if out, err := exec.Command("nft", "list", "ruleset").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("uninstalled: %v\n%s", err, out)
	}
}

func TestProcessFails(t *testing.T) {
	folder := samples(t)
	write(t, folder+"/broken.yaml", "apiVersion: v1\nkind: Pods\n")
	cmd := podfence(t, "render", "-f", folder, "--node", "node-1")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if cmd.Run() == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended with %s", cmd.ProcessState)
	}
	if want := "podfence: " + folder + "/broken.yaml:2: "; !strings.HasPrefix(errs.String(), want) || strings.Contains(errs.String(), "Usage") {
		t.Errorf("stderr is %q, want %q...", errs.String(), want)
	}
	if out.Len() > 0 {
		t.Errorf("stdout is %q", out.String())
	}
}

// The agent as the command line starts it commits, and ends well on SIGTERM.
func TestProcessRunsAgent(t *testing.T) {
	cmd := podfence(t, "agent", "--node-name", "node-1", "--manifests", samples(t), "--metrics-address", "0", "--health-address", "0", "--query-address", "0", "--hubble-address", "0")
	logs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []string
	committed := false
	for lines := bufio.NewScanner(logs); lines.Scan(); {
		all = append(all, lines.Text())
		if strings.Contains(lines.Text(), "Replaced the table") {
			committed = true
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil || !committed {
		t.Errorf("it ended with %v, committed is %v:\n%s", err, committed, strings.Join(all, "\n"))
	}
}

// Where kube-proxy balances by IPVS the agent fences what it can, and is not ready: what
// goes through Services passes no hook that podfence has.
func TestProcessRefusesIPVS(t *testing.T) {
	a := newAgents(t)
	if out, err := exec.Command("ip", "link", "add", "kube-ipvs0", "type", "veth", "peer", "name", "other").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	agent, lines := a.start()
	if line := a.await(lines, "IPVSProxy"); !strings.Contains(line, "kube-ipvs0") || !strings.Contains(line, "nftables or iptables") {
		t.Errorf("it does not say why, and what to do: %s", line)
	}
	a.await(lines, "Replaced the table")
	if out, err := exec.Command("ip", "link", "del", "kube-ipvs0").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	a.await(lines, `"condition": "IPVSProxy", "ready": true`)
	_ = agent.Process.Signal(syscall.SIGTERM)
	for range lines {
	}
	if err := agent.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// ready waits until there is a table.
func (a *agents) ready() {
	a.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); exec.Command("nft", "list", "table", "inet", "podfence").Run() != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			a.t.Fatal("there is no table after half a minute")
		}
	}
}

// The status writer waits where no API server answers, says that it does, and ends well on
// SIGTERM.
func TestProcessRunsStatusWriter(t *testing.T) {
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	write(t, kubeconfig, `apiVersion: v1
kind: Config
current-context: nobody
contexts: [{name: nobody, context: {cluster: nobody, user: nobody}}]
clusters: [{name: nobody, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: nobody, user: {}}]
`)
	cmd := podfence(t, "status-writer", "--kubeconfig", kubeconfig, "--leader-elect-namespace", "podfence-system",
		"--metrics-bind-address", "0", "--health-probe-bind-address", "0")
	logs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []string
	for lines := bufio.NewScanner(logs); lines.Scan(); {
		all = append(all, lines.Text())
		if strings.Contains(lines.Text(), "127.0.0.1:1") && len(all) > 1 {
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
	}
	if err := cmd.Wait(); err != nil || len(all) < 2 || !strings.Contains(all[0], `"lease": "podfence-system/status-writer.podfence.io"`) {
		t.Errorf("it ended with %v:\n%s", err, strings.Join(all, "\n"))
	}
}
