//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/podfence/podfence/test/walk"
)

// TestKubebuilderWalk: on a cluster that has podfence already, a fresh clone's targets of the Makefile do what
// somebody expects who knows kubebuilder's.
func TestKubebuilderWalk(t *testing.T) {
	// The same image by another name, so that it shows whether IMG is what runs.
	image := "podfence.example.com/walk/podfence:v0.0.0-walk"
	now := strings.TrimSpace(kubectl(t, "--namespace", agentNamespace, "get", "daemonset", agentName, "-o", "jsonpath={.spec.template.spec.containers[0].image}"))
	for _, node := range bothNodes {
		run(t, node, "ctr", "--namespace", "k8s.io", "images", "tag", "--force", now, image)
		t.Cleanup(func() { run(t, node, "ctr", "--namespace", "k8s.io", "images", "rm", image) })
	}
	t.Cleanup(func() {
		applyOverlay(t, "default")
		agentsReady(t)
	})
	source, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("CLUSTER", theCluster.Name)
	walk.Walk(t, walk.Options{Source: source, Kubectl: filepath.Join(theCluster.Bin, "podfence-cluster") + " kubectl", Image: image})
}
