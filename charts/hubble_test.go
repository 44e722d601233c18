package charts

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestHubble: hubble.tlsSecret does to the agents what the component config/hubble/agents does, in each mode.
// Lists that Kubernetes reads by name may be in another order.
func TestHubble(t *testing.T) {
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
			switch before, after, found := strings.Cut(string(text), "\ncomponents:\n"); {
			case found:
				text = []byte(before + "\ncomponents:\n- ../hubble/agents\n" + after)
			default:
				text = append(text, "\ncomponents:\n- ../hubble/agents\n"...)
			}
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := tool(t, "kustomize", "build", filepath.Join(config, of))
			if err != nil {
				t.Fatal(err)
			}
			got, want := render(t, `namespace.create=true`, `cni.mode="`+mode+`"`, `hubble.tlsSecret="hubble-server"`), parse(t, out)
			byName(got)
			byName(want)
			compare(t, got, want)
		})
	}
}

// byName puts lists of objects that have names into the order of the names, everywhere in a value.
func byName(value any) {
	switch value := value.(type) {
	case map[string]any:
		for _, part := range value {
			byName(part)
		}
	case []any:
		for _, part := range value {
			byName(part)
		}
		name := func(part any) string {
			object, _ := part.(map[string]any)
			text, _ := object["name"].(string)
			return text
		}
		slices.SortStableFunc(value, func(a, b any) int { return cmp.Compare(name(a), name(b)) })
	}
}
