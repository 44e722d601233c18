package charts

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNetworkPolicy: networkPolicy.enabled adds what config/network-policy adds to the overlays, and nothing where
// there are no pods to fence.
func TestNetworkPolicy(t *testing.T) {
	for of, mode := range map[string]string{"default": "bridge", "chained": "chained", "policy-only": "none"} {
		t.Run(of, func(t *testing.T) {
			config := t.TempDir()
			if err := os.CopyFS(config, os.DirFS("../config")); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(config, of, "kustomization.yaml")
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(strings.Replace(string(text), "\n# - ../network-policy\n", "\n- ../network-policy\n", 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := tool(t, "kustomize", "build", filepath.Join(config, of))
			if err != nil {
				t.Fatal(err)
			}
			want := parse(t, out)
			if want["NetworkPolicy/podfence-allow-metrics-traffic"] == nil {
				t.Fatalf("%s has no ../network-policy to switch on", path)
			}
			compare(t, render(t, `namespace.create=true`, `cni.mode="`+mode+`"`, `networkPolicy.enabled=true`), want)
		})
	}
	t.Run("without a status writer", func(t *testing.T) {
		compare(t, render(t, `networkPolicy.enabled=true`, `clusterNetworkPolicies.status.enabled=false`), render(t, `clusterNetworkPolicies.status.enabled=false`))
	})
}
