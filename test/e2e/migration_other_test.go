//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/test/prebuilt"
)

// The other programs that the tests of docs/migrations come from.

// otherModule is the folder that Go has downloaded a module to that a module below test/migrations pins.
func otherModule(t *testing.T, pinned, module string) string {
	t.Helper()
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module)
	cmd.Dir = filepath.Join("../migrations", pinned)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("where %s is: %v", module, err)
	}
	return strings.TrimSpace(string(out))
}

// deployOther applies a manifest of another program's own, with its images as they are built here: they are on
// the nodes already, and hold nothing but that program, so all else that its containers run is the node's own,
// by mounts of the node's folders.
func deployOther(t *testing.T, manifest []byte) {
	t.Helper()
	for document := range strings.SplitSeq(string(manifest), "\n---\n") {
		if strings.Contains(document, "kind: DaemonSet\n") {
			document = withNodesPrograms(t, document)
		}
		cmd, err := theCluster.KubectlCommand(context.Background(), "apply", "-f", "-")
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdin = strings.NewReader(document)
		if out, err := cmd.CombinedOutput(); err != nil && !bytes.Contains(out, []byte("no objects passed to apply")) {
			t.Fatalf("apply another's manifest: %v: %s\n%s", err, out, document)
		}
	}
}

// nodesPrograms are folders of the node's that programs and their libraries are in, by where they are mounted.
var nodesPrograms = map[string]string{"/usr": "/usr", "/bin": "/usr/bin", "/sbin": "/usr/sbin", "/lib": "/usr/lib", "/lib64": "/usr/lib64", "/etc/alternatives": "/etc/alternatives", "/etc/iproute2": "/etc/iproute2"}

func withNodesPrograms(t *testing.T, manifest string) string {
	t.Helper()
	var ds appsv1.DaemonSet
	unmarshal(t, manifest, &ds)
	spec := &ds.Spec.Template.Spec
	for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			containers[i].ImagePullPolicy = corev1.PullIfNotPresent
			for at := range nodesPrograms {
				containers[i].VolumeMounts = append(containers[i].VolumeMounts, corev1.VolumeMount{Name: volumeOf(at), MountPath: at})
			}
		}
	}
	for at, from := range nodesPrograms {
		kind := corev1.HostPathDirectoryOrCreate
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: volumeOf(at), VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: from, Type: &kind}}})
	}
	return marshal(t, &ds)
}

func volumeOf(path string) string { return "node" + strings.ReplaceAll(path, "/", "-") }

// installPlugins puts plugins of containernetworking on all nodes, as the distribution's package does.
func installPlugins(t *testing.T, plugins ...string) {
	t.Helper()
	dir := t.TempDir()
	if err := prebuilt.Reference(dir, plugins...); err != nil {
		t.Fatal(err)
	}
	for _, node := range bothNodes {
		for _, path := range plugins {
			program := filepath.Base(path)
			text, err := os.ReadFile(filepath.Join(dir, program))
			if err != nil {
				t.Fatal(err)
			}
			replaceOn(t, node, "/opt/cni/bin/"+program, string(text))
			run(t, node, "chmod", "755", "/opt/cni/bin/"+program)
		}
	}
}

// otherReady waits until a DaemonSet of another's is rolled out and the nodes are Ready.
func otherReady(t *testing.T, namespace, name string) {
	t.Helper()
	kubectl(t, "--namespace", namespace, "rollout", "status", "--timeout=4m", "daemonset/"+name)
	if err := theCluster.WaitReady(context.Background(), 2*time.Minute); err != nil {
		t.Fatal(err)
	}
}

// expectNothingOn fails the test for what a command prints on a node.
func expectNothingOn(t *testing.T, look string) {
	t.Helper()
	for _, node := range bothNodes {
		if left := run(t, node, "sh", "-c", "{ "+look+"; } 2>/dev/null || true"); strings.TrimSpace(left) != "" {
			t.Errorf("on %s is left, by %s:\n%s", node, look, left)
		}
	}
}

// showOther logs, if the test has failed, what another's pods say.
func showOther(t *testing.T, namespace, selector string) {
	t.Helper()
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		pods, err := client.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			t.Log(err)
			return
		}
		for _, pod := range pods.Items {
			said, err := theCluster.Kubectl(context.Background(), "--namespace", namespace, "logs", "--all-containers", "--tail=40", pod.Name)
			t.Logf("%s on %s: %s %v %v", pod.Name, pod.Spec.NodeName, said, err, pod.Status.ContainerStatuses)
		}
	})
}

func unmarshal(t *testing.T, text string, to any) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(text), to); err != nil {
		t.Fatal(err)
	}
}

func marshal(t *testing.T, object any) string {
	t.Helper()
	text, err := yaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
