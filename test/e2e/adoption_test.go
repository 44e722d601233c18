//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/test/check"
)

// adoption runs the commands of docs/ADOPTION.md, for a namespace in place of the page's.
type adoption struct {
	plugin
	document, folder, namespace string
}

func newAdoption(t *testing.T, namespace string) *adoption {
	t.Helper()
	a := &adoption{plugin: newPlugin(t), document: string(check.Value(os.ReadFile("../../docs/ADOPTION.md"))(t)), folder: t.TempDir(), namespace: namespace}
	manifest := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(a.document)
	if manifest == nil {
		t.Fatal("docs/ADOPTION.md shows no default deny")
	}
	check.NoError(t, os.WriteFile(filepath.Join(a.folder, "default-deny.yaml"), []byte(strings.ReplaceAll("\n"+manifest[1], "\n   ", "\n")), 0o600))
	kubectl := theCluster.BesideKubectl(context.Background(), filepath.Join(theCluster.Bin, "kubectl"))
	check.NoError(t, os.WriteFile(filepath.Join(a.plugin.folder, "kubectl"), []byte("#!/bin/sh\nexec "+strings.Join(kubectl.Args, " ")+" \"$@\"\n"), 0o700))
	return a
}

// run runs one of the commands, and returns what it prints. What it asks for is answered by yes.
func (a *adoption) run(t *testing.T, name string) string {
	t.Helper()
	block := regexp.MustCompile(`(?m)^ *<!-- run: ` + name + ` -->\n\n((?: {7}.*\n)+)`).FindStringSubmatch(a.document)
	if block == nil {
		t.Fatalf("docs/ADOPTION.md has no command %q", name)
	}
	command := strings.TrimSpace(block[1])
	command = strings.ReplaceAll(strings.ReplaceAll(command, "-n shop", "-n "+a.namespace), "ns/shop", "ns/"+a.namespace)
	command = strings.ReplaceAll(command, "--for 24h", "--for 20s")
	if strings.Contains(command, "podfence stage") || strings.Contains(command, "podfence enforce") {
		command += " --yes"
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", command)
	cmd.Dir = a.folder
	cmd.Env = append(os.Environ(), "PATH="+a.plugin.folder+":"+os.Getenv("PATH"), "KUBECONFIG="+theCluster.AdminConfig())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s\n%v:\n%s", command, err, out)
	}
	t.Logf("%s\n%s", command, out)
	return string(out)
}

// TestAdoption does what docs/ADOPTION.md says, from no policy to a default deny, for a Deployment behind a Service with
// DNS, probes, a CronJob and an address outside. Nothing is denied before the policies are in force; what nobody had used
// is told to be what they would deny; and in force, they deny that and nothing else.
func TestAdoption(t *testing.T) {
	s := newSeenShop(t)
	a := newAdoption(t, s.namespace)
	stranger := newNamespace(t)
	late := start(t, newPod(stranger, "late", on("node1")))[0] // of whom nothing is seen
	unmeant := append(s.unmeant(t), waysToService("late to the Service", netnsOf(t, late), s.service)...)

	a.run(t, "stage")
	using := make(chan struct{})
	go func() {
		defer close(using)
		time.Sleep(5 * time.Second) // until all agents observe
		s.report(t, 29000011)
		expectWays(t, "what is meant, while it is observed", s.meant(t), nil)
	}()
	a.run(t, "generate")
	<-using
	a.run(t, "apply")

	expectWays(t, "all to be open while the policies are staged", append(s.meant(t), unmeant...), nil)
	check.Eventually(t, time.Minute, "what would be denied to be told", func() error {
		said := a.run(t, "observe")
		for _, who := range []string{"/stranger", "/late"} {
			if !strings.Contains(said, s.namespace+who) && !strings.Contains(said, stranger+who) {
				return &missing{who, said}
			}
		}
		return nil
	})
	for _, line := range strings.Split(a.run(t, "observe"), "\n") {
		if strings.Contains(line, "/report-") || strings.Contains(line, "/client ->") && strings.Contains(line, "/server") {
			t.Errorf("what was observed would be denied: %s", line)
		}
	}

	a.run(t, "enforce")
	expectWays(t, "what was seen, and nothing else", s.meant(t), unmeant)
	s.report(t, 29000012)
	if said := a.run(t, "watch"); !strings.Contains(said, "late") {
		t.Errorf("the last command shows nothing of what is denied:\n%s", said)
	}
	a.run(t, "stage") // takes it back
	expectWays(t, "all to be open again", append(s.meant(t), unmeant...), nil)
}

// missing says who is not in what was printed.
type missing struct{ who, said string }

func (m *missing) Error() string { return m.who + " is not in\n" + m.said }
