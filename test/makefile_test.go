package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestResultsAreFresh: what make has to test is tested, and not taken from Go's cache of
// results, which knows nothing of the kernel, of nft, and of other programs that tests run.
func TestResultsAreFresh(t *testing.T) {
	// The pure rooms need nothing, and these targets are not about results.
	without := map[string]bool{"test-unit": true, "golden": true, "fuzz": true}
	text, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	tests := regexp.MustCompile(`\bgo (-C \S+ )?test\b`)
	seen := 0
	for _, target := range regexp.MustCompile(`(?m)^([a-z-]+):.*\n((?:\t.*\n)+)`).FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(strings.ReplaceAll(target[2], "\\\n", "")) {
			if !tests.MatchString(line) || without[target[1]] {
				continue
			}
			if seen++; !regexp.MustCompile(`-count[ =]1\b`).MatchString(line) {
				t.Errorf("make %s: without -count 1: %s", target[1], line)
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d commands seen that test", seen)
	}
}

// TestReleasedWithoutTraces: whatever builds podfence as it is released leaves gRPC's traces out, which
// would make it 12 MB larger.
func TestReleasedWithoutTraces(t *testing.T) {
	for _, path := range []string{"../Makefile", "../Dockerfile", "prebuilt/prebuilt.go"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`go"?,? "?build"?,? "?-tags"?,? "?grpcnotrace`).Match(text) {
			t.Errorf("%s builds without -tags grpcnotrace", path)
		}
	}
}

// TestReleaseVersion: make release-version writes the release's tag wherever it is, and make
// release-version-check finds each place that has another.
func TestReleaseVersion(t *testing.T) {
	folder := t.TempDir()
	for _, of := range []string{"config", "charts/podfence", "release"} {
		if err := os.CopyFS(filepath.Join(folder, of), os.DirFS("../"+of)); err != nil {
			t.Fatal(err)
		}
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "README.md")
	if err := os.WriteFile(path, readme, 0o600); err != nil {
		t.Fatal(err)
	}
	makes := func(target, version string) (string, error) {
		out, err := exec.Command("make", "-C", folder, "-f", filepath.Join(abs(t, ".."), "Makefile"), target, "VERSION="+version).CombinedOutput()
		return string(out), err
	}
	if out, err := makes("release-version", "v12.34.56-rc.1"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := makes("release-version-check", "v12.34.56-rc.1"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if text, err := os.ReadFile(path); err != nil || strings.Count(string(text), "12.34.56-rc.1") != 2 {
		t.Errorf("README.md has the version %d times: %v", strings.Count(string(text), "12.34.56-rc.1"), err)
	}
	for _, other := range []string{"v12.34.56", "v12.34x56-rc.1", "v12.34.56-rc.12"} {
		if out, err := makes("release-version-check", other); err == nil {
			t.Errorf("the check for %s has passed: %s", other, out)
		}
	}
	if out, err := makes("release-version", "8fa5320-dirty-12345678"); err == nil {
		t.Errorf("it takes what is no release: %s", out)
	}
	places := 0
	err = filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".yaml" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), "v12.34.56-rc.1") {
			return err
		}
		places++
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), "v12.34.56-rc.1", "v12.34.55")), 0o600); err != nil {
			return err
		}
		if out, err := makes("release-version-check", "v12.34.56-rc.1"); err == nil || !strings.Contains(out, strings.TrimPrefix(path, folder+"/")) {
			t.Errorf("the check does not see that %s has another tag: %v: %s", path, err, out)
		}
		return os.WriteFile(path, text, 0o600)
	})
	if err != nil || places < 4 {
		t.Errorf("%d files with the tag: %v", places, err)
	}
}

func abs(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
