package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podfence/podfence/cni/install"
)

// uninstallFolders are flags that keep an uninstall in a folder of the test.
func uninstallFolders(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	return []string{
		"--cni-conf-dir", filepath.Join(dir, "net.d"), "--cni-bin-dir", filepath.Join(dir, "bin"), "--cni-data-dir", filepath.Join(dir, "leases"),
		"--cni-state", filepath.Join(dir, "run", "attachments"), "--cni-socket", filepath.Join(dir, "run", "agent.sock"),
	}
}

// TestProcessUninstalls: what an agent of before and its plugin have left on the disk goes
// with the tables; others' files stay. Once more, and where nothing ever was, is no error.
func TestProcessUninstalls(t *testing.T) {
	a := newAgents(t)
	flags := uninstallFolders(t)
	at := map[string]string{}
	for i := 0; i < len(flags); i += 2 {
		at[flags[i]] = flags[i+1]
	}
	uninstall := func(more ...string) (string, int) {
		t.Helper()
		cmd := a.podfence(append(append([]string{"uninstall"}, flags...), more...)...)
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	const gone, done = "tables inet and bridge podfence are gone\n", "nothing of podfence is left on this node\n"
	if out, exit := uninstall(); exit != 0 || out != gone+done {
		t.Errorf("where nothing was it ends with %d, and says %s", exit, out)
	}

	own := []string{
		at["--cni-conf-dir"] + "/" + install.ConflistName, at["--cni-bin-dir"] + "/podfence",
		at["--cni-data-dir"] + "/podfence/10.244.1.7", at["--cni-data-dir"] + "/podfence/lock",
		at["--cni-state"] + "/c.eth0.json", at["--cni-socket"],
	}
	others := []string{at["--cni-conf-dir"] + "/20-other.conflist", at["--cni-bin-dir"] + "/bridge", at["--cni-data-dir"] + "/other/10.9.0.1"}
	for _, path := range append(own, others...) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, path, `{"plugins":[{"type":"bridge"}]}`)
	}
	for _, table := range []string{"inet", "bridge"} {
		if out, err := exec.Command("nft", "add", "table", table, "podfence").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	chained := at["--cni-conf-dir"] + "/10-flannel.conflist"
	write(t, chained, `{"name":"cbr0","plugins":[{"type":"flannel"},{"type":"podfence","mode":"chained"}]}`)
	if out, exit := uninstall("--disconnect-pods"); exit != exitRefused || !strings.Contains(out, chained) {
		t.Errorf("with a configuration that calls the plugin it ends with %d, and says %s", exit, out)
	}
	for _, path := range own {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("refused, and yet: %v", err)
		}
	}
	if err := os.Remove(chained); err != nil {
		t.Fatal(err)
	}

	out, exit := uninstall()
	if exit != 0 || !strings.HasSuffix(out, done) || !strings.Contains(out, "removed "+own[0]) || !strings.Contains(out, "removed "+own[1]) {
		t.Errorf("it ends with %d, and says %s", exit, out)
	}
	for _, path := range own {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is there yet: %v", path, err)
		}
	}
	for _, path := range others {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	if out, err := exec.Command("nft", "list", "ruleset").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("uninstalled: %v\n%s", err, out)
	}
	if out, exit := uninstall(); exit != 0 || out != gone+done {
		t.Errorf("once more it ends with %d, and says %s", exit, out)
	}
}

// TestProcessUninstallFails: what could not be removed is said, and no success.
func TestProcessUninstallFails(t *testing.T) {
	a := newAgents(t)
	flags := uninstallFolders(t)
	// Where the plugin was there is a folder, with something in it.
	if err := os.MkdirAll(filepath.Join(flags[3], install.Plugin, "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := a.podfence(append([]string{"uninstall"}, flags...)...)
	out, err := cmd.CombinedOutput()
	if err == nil || cmd.ProcessState.ExitCode() != 1 || strings.Contains(string(out), "nothing of podfence is left") {
		t.Errorf("it ends with %v, and says %s", err, out)
	}
}

// TestProcessUninstallStays: in a DaemonSet it stays until it is told to stop.
func TestProcessUninstallStays(t *testing.T) {
	a := newAgents(t)
	cmd := a.podfence(append([]string{"uninstall", "--stay"}, uninstallFolders(t)...)...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 4096)
	if n, err := stdout.Read(said); n == 0 {
		t.Fatalf("it says nothing: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		t.Fatalf("it ends by itself: %v", err)
	case <-time.After(time.Second):
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("told to stop, it ends with %v", err)
	}
}
