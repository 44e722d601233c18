package test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestArchitectureNamesFiles: each file that docs/ARCHITECTURE.md names by its path is there.
func TestArchitectureNamesFiles(t *testing.T) {
	text, err := os.ReadFile("../docs/ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, named := range regexp.MustCompile("`([a-z0-9_./-]+\\.go)`").FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains(named[1], "/") {
			continue // of the folder that the text is about
		}
		if seen++; !exists("../" + named[1]) {
			t.Errorf("docs/ARCHITECTURE.md names %s, and there is no such file", named[1])
		}
	}
	if seen < 50 {
		t.Errorf("only %d files seen", seen)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
