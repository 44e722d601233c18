package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

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
		at["--cni-state"] + "/c.eth0.json", at["--cni-state"] + ".boot", at["--cni-socket"], filepath.Dir(at["--cni-socket"]) + "/committed",
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

// What config/uninstall runs takes its arguments, and finds the folders that it removes
// from where it looks for them.
func TestUninstallManifest(t *testing.T) {
	text, err := os.ReadFile("../config/uninstall/daemonset.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var ds appsv1.DaemonSet
	if err := yaml.UnmarshalStrict(text, &ds); err != nil {
		t.Fatal(err)
	}
	if got := ds.Spec.Template.Spec.NodeSelector[uninstallLabel]; got != "true" {
		t.Errorf("it runs on nodes with %s=%q", uninstallLabel, got)
	}
	for _, c := range append(ds.Spec.Template.Spec.InitContainers, ds.Spec.Template.Spec.Containers...) {
		cmd, args, err := Command(version).Find(c.Args)
		if err == nil {
			err = cmd.ParseFlags(args)
		}
		if err != nil || cmd.Name() != "uninstall" {
			t.Fatalf("container %s: %v: %v", c.Name, c.Args, err)
		}
		for _, flag := range []string{"cni-conf-dir", "cni-bin-dir", "cni-data-dir", "cni-state", "cni-socket"} {
			path := cmd.Flags().Lookup(flag).Value.String()
			if !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
				return !m.ReadOnly && (path == m.MountPath || strings.HasPrefix(path, m.MountPath+"/"))
			}) {
				t.Errorf("container %s mounts nothing with --%s %s", c.Name, flag, path)
			}
		}
	}
}

// The agents of every overlay keep off the nodes that the uninstaller is for.
func TestAgentsKeepOff(t *testing.T) {
	terms := chartDaemonSet(t, "cni.mode=bridge").Spec.Template.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	want := corev1.NodeSelectorRequirement{Key: uninstallLabel, Operator: corev1.NodeSelectorOpNotIn, Values: []string{"true"}}
	for _, term := range terms { // one of them must hold
		if !slices.ContainsFunc(term.MatchExpressions, func(r corev1.NodeSelectorRequirement) bool { return reflect.DeepEqual(r, want) }) {
			t.Errorf("an agent runs where %v", term)
		}
	}
}
