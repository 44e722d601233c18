package main

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
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

// podfence is a process.
func podfence(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), asMain+"=1")
	return cmd
}

// The program says the version that the build has set, and ends with the exit code that the
// command line returns.
func TestProcessEnds(t *testing.T) {
	for _, c := range []struct {
		arg, want string
		exit      int
	}{
		{"version", "podfence version " + version + "\n", 0},
		{"agnet", `podfence: unknown command "agnet"`, 1},
	} {
		cmd := podfence(t, c.arg)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		if exit := cmd.ProcessState.ExitCode(); exit != c.exit || !strings.HasPrefix(string(out), c.want) {
			t.Errorf("%s: it ends with %d, and says %s", c.arg, exit, out)
		}
	}
}

// SIGTERM, by which kubelet stops a container, and an interrupt end the agent well.
func TestProcessIsToldToStop(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a network namespace needs root: skipped")
	}
	folder := t.TempDir()
	const node = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\n"
	if err := os.WriteFile(filepath.Join(folder, "node.yaml"), []byte(node), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, signal := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		cmd := podfence(t, "agent", "--node-name", "node-1", "--manifests", folder, "--metrics-address", "0", "--health-address", "0", "--query-address", "0", "--hubble-address", "0")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
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
			if strings.Contains(lines.Text(), "Replaced the table") {
				if err := cmd.Process.Signal(signal); err != nil {
					t.Error(err)
				}
			}
		}
		if err := cmd.Wait(); err != nil || len(all) == 0 {
			t.Errorf("%v: it ended with %v:\n%s", signal, err, strings.Join(all, "\n"))
		}
	}
}
