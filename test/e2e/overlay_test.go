//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What is common to the tests that install podfence anew: by the manifests of this tree, and with the image that
// the cluster was started with, as this tree's have that of a release.

// theImage is the image that the agents had when the tests began.
var theImage string

// findImage finds it out.
func findImage() (string, error) {
	ds, err := client.AppsV1().DaemonSets(agentNamespace).Get(context.Background(), agentName, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("the agents' DaemonSet, which make cluster-up installs: %w", err)
	}
	image := ds.Spec.Template.Spec.Containers[0].Image
	if at := strings.LastIndexByte(image, ':'); at < 0 || strings.Contains(image[at:], "/") || strings.Contains(image, "@") {
		return "", errors.New("the agents' image has no tag: " + image)
	}
	return image, nil
}

// applyOverlay applies one of the folders in config.
func applyOverlay(t *testing.T, name string) {
	t.Helper()
	kubectl(t, "apply", "-k", withImage(t, "../../config/"+name, theImage))
}

// withImage is a folder to be applied by kubectl: another folder's objects, with an image in place of podfence's.
func withImage(t *testing.T, folder, image string) string {
	t.Helper()
	of := t.TempDir()
	from, err := filepath.Abs(folder)
	if err == nil {
		from, err = filepath.Rel(of, from)
	}
	if err != nil {
		t.Fatal(err)
	}
	at := strings.LastIndexByte(image, ':')
	text := fmt.Sprintf("resources:\n- %s\nimages:\n- name: ghcr.io/podfence/podfence\n  newName: %s\n  newTag: %s\n", from, image[:at], image[at+1:])
	if err := os.WriteFile(filepath.Join(of, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return of
}
