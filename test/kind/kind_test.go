//go:build e2e

package kind

import (
	"flag"
	"path/filepath"
	"testing"

	"github.com/podfence/podfence/test/walk"
)

var (
	image   = flag.String("image", "", "podfence's image, which the nodes have")
	kubectl = flag.String("kubectl", "kubectl", "the command that asks the cluster")
)

// TestKubebuilderWalk: on a cluster without a network plugin, a fresh clone's targets of the Makefile do what
// somebody expects who knows kubebuilder's, and pods are connected and fenced.
func TestKubebuilderWalk(t *testing.T) {
	if *image == "" {
		t.Fatal("-image is not set: make test-e2e sets it")
	}
	source, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	walk.Walk(t, walk.Options{Source: source, Kubectl: *kubectl, Image: *image})
}
