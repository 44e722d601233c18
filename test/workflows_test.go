package test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// workflow is what the tests below read of a workflow of GitHub's.
type workflow struct {
	Permissions *map[string]string `json:"permissions"`
	Concurrency *struct {
		Group string `json:"group"`
	} `json:"concurrency"`
	Jobs map[string]struct {
		Permissions map[string]string `json:"permissions"`
		Timeout     int               `json:"timeout-minutes"`
		Steps       []struct {
			Uses string `json:"uses"`
			Run  string `json:"run"`
		} `json:"steps"`
	} `json:"jobs"`
}

// TestWorkflows: the workflows do what can be done by hand, as they call make alone; they ask for no
// permission but by job; none runs for hours; and what they use is pinned by its commit.
func TestWorkflows(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`^(?:sudo --preserve-env=HOME,CI env "PATH=\$PATH" )?make ([a-z0-9-]+)((?: [a-z0-9-]+)*)(?: [A-Z]+=\S+)*$`)
	pinned := regexp.MustCompile(`^[\w.-]+/[\w./-]+@[0-9a-f]{40}$`)
	// Whose commit could not be found out; Dependabot pins it with the next version.
	unpinned := []string{"rajatjindal/krew-release-bot@v0.0.51"}
	// Before make is there: a container has neither git nor make.
	bootstrap := "apt-get update -q && apt-get install -qy --no-install-recommends ca-certificates git make"
	paths, err := filepath.Glob("../.github/workflows/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	targets := 0
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var w workflow
		if err := yaml.Unmarshal(text, &w); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if w.Permissions == nil || len(*w.Permissions) > 0 {
			t.Errorf("%s: permissions of the whole workflow are not {}", path)
		}
		if w.Concurrency == nil || w.Concurrency.Group == "" {
			t.Errorf("%s: it has no concurrency group", path)
		}
		for name, job := range w.Jobs {
			if job.Timeout == 0 || job.Timeout > 300 {
				t.Errorf("%s: job %s: %d minutes", path, name, job.Timeout)
			}
			if job.Permissions["contents"] == "" {
				t.Errorf("%s: job %s does not say its permissions", path, name)
			}
			for _, step := range job.Steps {
				if step.Uses != "" && !pinned.MatchString(step.Uses) && !slices.Contains(unpinned, step.Uses) {
					t.Errorf("%s: job %s: %s is not pinned by its commit", path, name, step.Uses)
				}
				if step.Run == "" || step.Run == bootstrap {
					continue
				}
				called := command.FindStringSubmatch(step.Run)
				if called == nil {
					t.Errorf("%s: job %s runs something else than make: %s", path, name, step.Run)
					continue
				}
				for _, target := range append(strings.Fields(called[2]), called[1]) {
					targets++
					if !regexp.MustCompile(`(?m)^` + target + `:`).Match(makefile) {
						t.Errorf("%s: job %s: the Makefile has no target %s", path, name, target)
					}
				}
			}
		}
	}
	if len(paths) < 8 || targets < 15 {
		t.Errorf("only %d workflows with %d targets seen", len(paths), targets)
	}
}

// TestDependabot: every module of the repository is kept up to date.
func TestDependabot(t *testing.T) {
	text, err := os.ReadFile("../.github/dependabot.yml")
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Updates []struct {
			Ecosystem   string   `json:"package-ecosystem"`
			Directories []string `json:"directories"`
		} `json:"updates"`
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	var listed, there []string
	for _, update := range config.Updates {
		if update.Ecosystem == "gomod" {
			listed = append(listed, update.Directories...)
		}
	}
	err = filepath.WalkDir("..", func(path string, entry os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (path == "../bin" || path == "../dist" || path == "../.git"):
			return filepath.SkipDir
		case entry.Name() == "go.mod":
			there = append(there, "/"+strings.TrimPrefix(strings.TrimPrefix(filepath.Dir(path), ".."), "/"))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(listed)
	slices.Sort(there)
	if !slices.Equal(listed, there) || len(there) < 9 {
		t.Errorf("Dependabot looks after the modules\n%q; there are\n%q", listed, there)
	}
}
