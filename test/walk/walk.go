// Package walk goes the way of somebody who knows kubebuilder and has just cloned podfence: help, the
// installer, the CRD alone, deploy, undeploy. Each target of the Makefile must do what its name says there,
// on a real cluster: that of `make cluster-up` (test/e2e) or one of kind (test/kind).
package walk

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/test/check"
)

// Options are where the way leads.
type Options struct {
	// Source is the folder of podfence's source. Its files are copied; those that git does not have are left out.
	Source string
	// Kubectl is the command by which the Makefile asks the cluster, with a cluster admin's rights. Its spaces
	// part arguments, as they do in the Makefile.
	Kubectl string
	// Image is podfence's image. Each node has it, or can pull it.
	Image string
}

// namespace has the pods by which the walk sees whether policies are enforced.
const namespace = "podfence-walk"

// theCRD is what `make install` is about.
const theCRD = "customresourcedefinition.apiextensions.k8s.io/podaddresses.podfence.io"

// Targets are those of the Makefile that kubebuilder has as well.
func Targets() []string {
	return []string{
		"help", "manifests", "generate", "fmt", "vet", "lint", "lint-fix", "test", "test-e2e", "build", "run", "docker-build", "docker-push",
		"docker-buildx", "build-installer", "install", "uninstall", "deploy", "undeploy",
	}
}

// Walk goes the way. It begins by removing podfence from the cluster, if it is there, and ends with podfence
// deployed and no pods of its own left. The cluster's nodes must be ready in the end, so no other network plugin
// may be needed. It ends the test at the first step that does not do what it says.
func Walk(t *testing.T, o Options) {
	t.Helper()
	w := &walker{Options: o, folder: t.TempDir()}
	w.copySource(t)
	help := w.make(t, "help")
	for _, target := range Targets() {
		if !strings.Contains(help, "\n  "+target+" ") {
			t.Fatalf("make help has no %s:\n%s", target, help)
		}
	}
	w.installer(t)

	w.make(t, "undeploy", "IGNORE_NOT_FOUND=true")
	w.expectThere(t, "after undeploy")
	t.Cleanup(func() { w.kubectl(t, "delete", "namespace", namespace, "--ignore-not-found", "--timeout=2m") })

	w.make(t, "install")
	w.expectThere(t, "after install", theCRD)
	w.make(t, "uninstall")
	w.expectThere(t, "after uninstall")
	w.expectNotFound(t, "uninstall")

	w.make(t, "deploy")
	w.expectDeployed(t)
	w.startPods(t)
	w.expectFenced(t, "after deploy")

	w.make(t, "undeploy")
	w.expectThere(t, "after undeploy")
	w.expectFenced(t, "after undeploy, which leaves the rules in force")
	w.expectNotFound(t, "undeploy")

	w.make(t, "deploy")
	w.expectDeployed(t)
	w.expectFenced(t, "deployed again")
}

// walker is who goes: folder is the fresh clone, and installed what install.yaml has, as kubectl names it.
type walker struct {
	Options
	folder string
}

func (w *walker) copySource(t *testing.T) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c",
		`git -C "$0" ls-files -z | xargs -0 tar --create --no-recursion --directory "$0" --file - -- | tar --extract --directory "$1"`,
		w.Source, w.folder).CombinedOutput()
	if err != nil {
		t.Fatalf("copying %s: %v: %s", w.Source, err, out)
	}
}

// try calls make in the clone.
func (w *walker) try(args ...string) (string, error) {
	args = append(args, "IMG="+w.Image, "KUBECTL="+w.Kubectl)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "make", args...)
	cmd.Dir = w.folder
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("make %s: %w:\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

func (w *walker) make(t *testing.T, args ...string) string {
	t.Helper()
	out, err := w.try(args...)
	check.NoError(t, err)
	return out
}

// installer: build-installer writes all that there is to apply, of the image that it is told, and changes no
// file that git has.
func (w *walker) installer(t *testing.T) {
	t.Helper()
	before := w.sums(t)
	w.make(t, "build-installer")
	if after := w.sums(t); before != after {
		t.Errorf("build-installer has changed config:\n%s\nbefore:\n%s", after, before)
	}
	for name, least := range map[string]int{"install.yaml": 10, "uninstall.yaml": 1} {
		text, err := os.ReadFile(filepath.Join(w.folder, "dist", name))
		check.NoError(t, err)
		parts := strings.Split(string(text), "\n---\n")
		if len(parts) < least {
			t.Errorf("dist/%s has %d objects:\n%s", name, len(parts), text)
		}
		images := 0
		for line := range strings.Lines(string(text)) {
			if image, is := strings.CutPrefix(strings.TrimSpace(line), "image: "); is {
				if images++; image != w.Image {
					t.Errorf("dist/%s has the image %s, and not %s", name, image, w.Image)
				}
			}
		}
		if images < 2 {
			t.Errorf("dist/%s has %d images", name, images)
		}
	}
}

// sums are checksums of what kustomize reads.
func (w *walker) sums(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `find "$0" -type f | sort | xargs sha256sum`, filepath.Join(w.folder, "config")).Output()
	check.NoError(t, err)
	return string(out)
}

// ask calls kubectl.
func (w *walker) ask(args ...string) (string, error) {
	command := append(strings.Fields(w.Kubectl), args...)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s%s", strings.Join(command, " "), err, out, stderr.String())
	}
	return string(out), nil
}

func (w *walker) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := w.ask(args...)
	check.NoError(t, err)
	return out
}

// expectThere expects that of what install.yaml has, the cluster has these and no others.
func (w *walker) expectThere(t *testing.T, when string, want ...string) {
	t.Helper()
	out := w.kubectl(t, "get", "--ignore-not-found", "-o", "name", "-f", filepath.Join(w.folder, "dist", "install.yaml"))
	if got := strings.Fields(out); !slices.Equal(got, want) {
		t.Fatalf("%s, the cluster has %q; expected are %q", when, got, want)
	}
}

// expectNotFound expects that a target that removes fails where nothing is left to remove, unless that is to be
// passed over, in kubebuilder's spelling or in that of the environment.
func (w *walker) expectNotFound(t *testing.T, target string) {
	t.Helper()
	if out, err := w.try(target); err == nil || !strings.Contains(out, "NotFound") {
		t.Fatalf("make %s with nothing to remove: %v, and it says:\n%s", target, err, out)
	}
	w.make(t, target, "ignore-not-found=true")
	w.make(t, target, "IGNORE_NOT_FOUND=true")
}

// expectDeployed expects agents of the image on all nodes, which are Ready.
func (w *walker) expectDeployed(t *testing.T) {
	t.Helper()
	w.kubectl(t, "--namespace", "podfence-system", "rollout", "status", "--timeout=4m", "daemonset/podfence-agent", "deployment/podfence-status-writer")
	w.kubectl(t, "wait", "--timeout=2m", "--for=condition=Ready", "nodes", "--all")
	var list struct {
		Items []struct {
			Spec struct{ Containers []struct{ Image string } }
		}
	}
	check.NoError(t, yaml.Unmarshal([]byte(w.kubectl(t, "--namespace", "podfence-system", "get", "pods", "-o", "json")), &list))
	if len(list.Items) < 2 {
		t.Fatalf("podfence-system has %d pods", len(list.Items))
	}
	for _, pod := range list.Items {
		for _, container := range pod.Spec.Containers {
			if container.Image != w.Image {
				t.Fatalf("a pod has the image %s, and not %s", container.Image, w.Image)
			}
		}
	}
}

// startPods starts a server, a client that a policy lets in, and a stranger that it does not.
func (w *walker) startPods(t *testing.T) {
	t.Helper()
	pod := func(name, command string) string {
		return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: %[2]s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: agnhost, image: "registry.k8s.io/e2e-test-images/agnhost:2.66.1", imagePullPolicy: IfNotPresent, args: [%[3]s]}
`, name, namespace, command)
	}
	file := filepath.Join(w.folder, "dist", "walk.yaml")
	check.NoError(t, os.WriteFile(file, []byte("apiVersion: v1\nkind: Namespace\nmetadata: {name: "+namespace+"}\n"+
		pod("server", "netexec, --http-port=8080")+pod("client", "pause")+pod("stranger", "pause")+`---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server, namespace: `+namespace+`}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
  - from:
    - podSelector: {matchLabels: {app: client}}
    ports:
    - port: 8080
`), 0o600))
	w.kubectl(t, "apply", "-f", file)
	w.kubectl(t, "--namespace", namespace, "wait", "--timeout=4m", "--for=condition=Ready", "pods", "--all")
}

// expectFenced expects that the client reaches the server, and the stranger does not.
func (w *walker) expectFenced(t *testing.T, when string) {
	t.Helper()
	server := strings.TrimSpace(w.kubectl(t, "--namespace", namespace, "get", "pod", "server", "-o", "jsonpath={.status.podIP}"))
	reach := func(from string) error {
		_, err := w.ask("--namespace", namespace, "exec", from, "--", "/agnhost", "connect", "--timeout=2s", server+":8080")
		return err
	}
	check.Eventually(t, time.Minute, "the client to reach the server, "+when, func() error { return reach("client") })
	if err := reach("stranger"); err == nil || !strings.Contains(err.Error(), "TIMEOUT") {
		t.Fatalf("the stranger asks the server, %s: %v", when, err)
	}
}
