package test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/test/inputs"
)

// TestGenerated: what is checked in is what `make generate` makes of the types in api.
func TestGenerated(t *testing.T) {
	if err := inputs.Packages(module + "/api/..."); err != nil {
		t.Fatal(err)
	}
	if err := inputs.Trees("tools", "../config/crd", "../charts/podfence/files"); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "-C", "tools", "tool", "-n", "controller-gen").Output()
	if err != nil {
		t.Fatalf("building controller-gen: %v", err)
	}
	generator := strings.TrimSpace(string(out))
	types, definitions := t.TempDir(), t.TempDir()
	for _, args := range [][]string{
		{"object", "paths=./api/...", "output:object:dir=" + types},
		{"crd", "paths=./api/...", "output:crd:dir=" + definitions},
	} {
		cmd := exec.Command(generator, args...)
		cmd.Dir = ".." // it finds packages in the module that it runs in
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("controller-gen %s: %v: %s", args[0], err, out)
		}
	}
	for _, c := range []struct{ made, has, pattern string }{
		{types, "../api/v1alpha1", "zz_generated.*"},
		{definitions, "../config/crd", "podfence.io_*"},
		{definitions, "../charts/podfence/files", "*"},
	} {
		made, has := contents(t, c.made, "*"), contents(t, c.has, c.pattern)
		if len(made) == 0 {
			t.Errorf("nothing is made for %s", c.has)
		}
		var names []string
		for name := range made {
			names = append(names, name)
		}
		for name := range has {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			// A file that is missing is nil, and no file is empty.
			if !bytes.Equal(made[name], has[name]) {
				t.Errorf("%s/%s is not what controller-gen makes; run make generate, and delete what that does not make any more", c.has, name)
			}
		}
	}
}

// contents are the files of a folder that match a pattern, by name.
func contents(t *testing.T, folder, pattern string) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, pattern))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, path := range paths {
		if all[filepath.Base(path)], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	return all
}
