package test

import (
	"os"
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
