package test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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

// TestDocsListFiles: a package's doc.go that lists files, each on an indented line with its name
// first, lists all of its folder that are no tests and not generated, each once, and no others.
func TestDocsListFiles(t *testing.T) {
	var lists []string
	for _, room := range []string{"agent", "api", "cli", "cni", "controllers", "explain", "kubectl-podfence", "names", "policy", "release", "ruleset"} {
		err := filepath.WalkDir("../"+room, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.Name() != "doc.go" {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			folder := filepath.Dir(path)
			there, err := sources(folder)
			if err != nil {
				return err
			}
			listed := listedIn(string(text))
			if len(listed) == 0 {
				return nil // it tells of its package in another way
			}
			lists = append(lists, strings.TrimPrefix(folder, "../"))
			for _, name := range there {
				if !slices.Contains(listed, name) {
					t.Errorf("%s does not list %s", path, name)
				}
			}
			for i, name := range listed {
				switch {
				case !slices.Contains(there, name):
					t.Errorf("%s lists %s, and there is no such file", path, name)
				case slices.Contains(listed[:i], name):
					t.Errorf("%s lists %s twice", path, name)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// A list that is written in another way would not be seen.
	for _, folder := range []string{
		"agent", "api/v1alpha1", "cli", "controllers", "controllers/announcements", "controllers/attachments", "controllers/clusterstatus", "controllers/enforcer", "controllers/folder", "controllers/hubble", "controllers/network",
		"controllers/nodes", "controllers/report", "controllers/resolvers", "kubectl-podfence/agents", "kubectl-podfence/cluster", "kubectl-podfence/commands", "names/dns", "names/resolver", "policy", "policy/packet", "release", "ruleset", "ruleset/kernel", "ruleset/nft",
	} {
		if !slices.Contains(lists, folder) {
			t.Errorf("%s/doc.go lists no files", folder)
		}
	}
}

// listed is a line of a list of files: a name, or several, and what is there.
var listed = regexp.MustCompile(`(?m)^//\t([a-z0-9_]+\.go(?:, [a-z0-9_]+\.go)*)(?:  +\S.*)?$`)

// listedIn returns the files that a package's documentation lists.
func listedIn(doc string) (names []string) {
	for _, line := range listed.FindAllStringSubmatch(doc, -1) {
		names = append(names, strings.Split(line[1], ", ")...)
	}
	return names
}

// sources returns the files of a package but for its tests, its doc.go and what is generated.
func sources(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if name := entry.Name(); strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") && !strings.HasPrefix(name, "zz_generated.") && name != "doc.go" {
			names = append(names, name)
		}
	}
	return names, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
