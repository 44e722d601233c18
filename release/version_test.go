package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestVersion: version.sh names a release by its tag, and every other state of a tree by a name of its own that
// an image's tag can be.
func TestVersion(t *testing.T) {
	script, err := os.ReadFile("version.sh")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, "release"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "release", "version.sh"), script, 0o700); err != nil {
		t.Fatal(err)
	}
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", folder, "-c", "user.name=a", "-c", "user.email=a@example.com"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]string{}
	expect := func(what, pattern string) {
		t.Helper()
		cmd := exec.Command(filepath.Join(folder, "release", "version.sh"))
		cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(folder)) // the folder is in no other repository
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		version := strings.TrimSuffix(string(out), "\n")
		if !regexp.MustCompile("^"+pattern+"$").MatchString(version) || !regexp.MustCompile(`^[\w][\w.-]{0,127}$`).MatchString(version) {
			t.Errorf("%s: the version is %q, not as %s", what, version, pattern)
		}
		if other := seen[version]; other != "" {
			t.Errorf("%s has the version %s of %s", what, version, other)
		}
		seen[version] = what
	}
	const commit, dirty = `[0-9a-f]{7,}`, `-dirty-[0-9a-f]{8}`
	expect("no repository", "dev")
	git("init", "-q")
	git("add", ".")
	git("commit", "-q", "-m", "one")
	expect("before any release", commit)
	write("file", "a")
	expect("a file that is not added", commit+dirty)
	write("file", "b")
	expect("that file with another text", commit+dirty)
	git("add", ".")
	git("commit", "-q", "-m", "two")
	git("tag", "v1.2.3-rc.1")
	git("tag", "other")
	expect("a release", `v1\.2\.3-rc\.1`)
	write("file", "c")
	expect("a change after it", `v1\.2\.3-rc\.1`+dirty)
	write("file", "d")
	expect("another change", `v1\.2\.3-rc\.1`+dirty)
	git("commit", "-q", "-a", "-m", "three")
	expect("a commit after it", `v1\.2\.3-rc\.1-1-g`+commit)
}
