package main

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asMain, in the environment, has the test binary be podfence.
const asMain = "TEST_BINARY_IS_PODFENCE"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
		return
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

func TestProcessFails(t *testing.T) {
	folder := samples(t)
	write(t, folder+"/broken.yaml", "apiVersion: v1\nkind: Secret\n")
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

func TestProcessUninstalls(t *testing.T) {
	out, err := podfence(t, "uninstall").CombinedOutput()
	if err != nil || string(out) != "tables inet and bridge podfence are gone\n" {
		t.Errorf("where there is no table: %v: %s", err, out)
	}
}

// The agent as the command line starts it commits, and ends well on SIGTERM.
func TestProcessRunsAgent(t *testing.T) {
	cmd := podfence(t, "agent", "--node-name", "node-1", "--manifests", samples(t), "--metrics-address", "0", "--health-address", "0")
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
