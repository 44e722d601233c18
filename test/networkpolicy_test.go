package test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/podfence/podfence/kubectl-podfence/commands"
	"github.com/podfence/podfence/test/inputs"
)

// TestOwnNetworkPolicies: with config/network-policy switched on, each overlay's pods, and Hubble's, are let do what
// they need and nothing else, says podfence itself.
func TestOwnNetworkPolicies(t *testing.T) {
	if err := inputs.Trees("../config"); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "-C", "tools", "tool", "-n", "kustomize").Output()
	if err != nil {
		t.Fatalf("building kustomize: %v", err)
	}
	kustomize := strings.TrimSpace(string(out))
	for _, overlay := range []string{"default", "chained", "policy-only"} {
		t.Run(overlay, func(t *testing.T) {
			folder, files := t.TempDir(), t.TempDir()
			if err := os.CopyFS(folder, os.DirFS("../config")); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(folder, overlay, "kustomization.yaml")
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			on := strings.NewReplacer("\n# - ../network-policy\n", "\n- ../network-policy\n").Replace(string(text))
			if on == string(text) {
				t.Fatalf("%s has no ../network-policy to switch on", path)
			}
			if err := os.WriteFile(path, []byte(on), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, of := range []string{overlay, "hubble", "hubble/ui"} {
				out, err := exec.Command(kustomize, "build", filepath.Join(folder, of)).Output()
				if err != nil {
					t.Fatalf("kustomize build config/%s: %v", of, err)
				}
				if err := os.WriteFile(filepath.Join(files, strings.ReplaceAll(of, "/", "-")+".yaml"), out, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var said bytes.Buffer
			code := commands.Main(t.Context(), "test", genericiooptions.IOStreams{In: &bytes.Buffer{}, Out: &said, ErrOut: &said},
				[]string{"test", "-f", files, "-f", "testdata/networkpolicy/cluster.yaml", "testdata/networkpolicy/expected.yaml"})
			if code != 0 {
				t.Errorf("kubectl podfence test: exit code %d:\n%s", code, said.String())
			}
		})
	}
}
