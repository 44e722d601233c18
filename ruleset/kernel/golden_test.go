package kernel_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podfence/podfence/controllers/manifests"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
)

// TestGoldens: what the kernel holds after a plan is carried out over netlink
// is what it holds after nft has read the golden text, which the renderer is
// tested to write. nft takes back what it lists.
func TestGoldens(t *testing.T) {
	paths, err := filepath.Glob("../testdata/*.nft")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no goldens in ../testdata: %v", err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			input, options := strings.TrimSuffix(path, ".nft"), ruleset.Options{}
			if plain, found := strings.CutSuffix(input, "-options"); found {
				input, options = plain, ruleset.Options{Reject: true, AllowToNode: true, RevokedMark: 1 << 29}
			}
			snapshot, err := manifests.Load(input + ".yaml")
			if err != nil {
				t.Fatal(err)
			}
			intent, _ := policy.Compile(snapshot, "node-1")
			golden, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			have, want := newNamespace(t), newNamespace(t)
			if err := have.open().Apply(ruleset.Build(intent, options).Replacement()); err != nil {
				t.Fatal(err)
			}
			want.nft(string(golden), "-f", "-")
			expectSame(t, have, want)
		})
	}
}
