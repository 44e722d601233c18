package test

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/podfence/podfence/kubectl-podfence/commands"
)

// The files at the root and in .github that tell users and contributors what to do.
func communityFiles(t *testing.T) []string {
	t.Helper()
	files := []string{"../.devcontainer/post-install.sh", "../.github/pull_request_template.md"}
	for _, pattern := range []string{"../*.md", "../.github/ISSUE_TEMPLATE/*.yml"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	for _, name := range []string{"SECURITY", "CODE_OF_CONDUCT", "GOVERNANCE", "ADOPTERS", "ROADMAP", "CONTRIBUTING", "README"} {
		if !slices.Contains(files, "../"+name+".md") {
			t.Errorf("there is no %s.md", name)
		}
	}
	return files
}

// issueForm is a form for issues: https://docs.github.com/communities/using-templates-to-encourage-useful-issues-and-pull-requests/syntax-for-issue-forms
type issueForm struct {
	Name        string        `json:"name"`
	Description string        `json:"description"`
	Title       string        `json:"title"`
	Labels      []string      `json:"labels"`
	Body        []formElement `json:"body"`
}

type formElement struct {
	Type       string `json:"type"`
	ID         string `json:"id"`
	Attributes struct {
		Label       string `json:"label"`
		Description string `json:"description"`
		Placeholder string `json:"placeholder"`
		Value       string `json:"value"`
		Render      string `json:"render"`
		Multiple    bool   `json:"multiple"`
		Options     []any  `json:"options"`
	} `json:"attributes"`
	Validations struct {
		Required bool `json:"required"`
	} `json:"validations"`
}

// TestIssueForms: GitHub takes the forms. It shows none that breaks one of these rules.
func TestIssueForms(t *testing.T) {
	paths, err := filepath.Glob("../.github/ISSUE_TEMPLATE/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, path := range paths {
		if filepath.Base(path) == "config.yml" {
			continue
		}
		var form issueForm
		readYAML(t, path, &form)
		if form.Name == "" || form.Description == "" || names[form.Name] {
			t.Errorf("%s: name %q and description %q must be there, and the name no other form's", path, form.Name, form.Description)
		}
		names[form.Name] = true
		for _, label := range form.Labels {
			if !slices.Contains([]string{"bug", "enhancement", "question"}, label) { // a repository has these from its start
				t.Errorf("%s: the label %s may not be there", path, label)
			}
		}
		asks, seen := 0, map[string]bool{}
		for i, e := range form.Body {
			if problem := e.problem(); problem != "" {
				t.Errorf("%s: body[%d]: %s", path, i, problem)
			}
			for _, unique := range []string{"id " + e.ID, "label " + e.Attributes.Label} {
				if e.Type != "markdown" && seen[unique] {
					t.Errorf("%s: body[%d]: there are two with the %s", path, i, unique)
				}
				seen[unique] = true
			}
			if e.Type != "markdown" {
				asks++
			}
		}
		if asks == 0 {
			t.Errorf("%s asks nothing", path)
		}
	}
	if len(names) < 3 {
		t.Errorf("only %d forms seen", len(names))
	}
}

// problem says what GitHub does not take of an element; empty: nothing.
func (e formElement) problem() string {
	a := e.Attributes
	switch {
	case !slices.Contains([]string{"markdown", "textarea", "input", "dropdown", "checkboxes"}, e.Type):
		return "there is no type " + e.Type
	case e.Type == "markdown" && (a.Value == "" || a.Label != "" || e.ID != "" || e.Validations.Required):
		return "markdown has a value and nothing else"
	case e.Type == "markdown":
		return ""
	case a.Label == "" || !regexp.MustCompile(`^[A-Za-z0-9_-]+$`).MatchString(e.ID):
		return "it has no label, or its id is not one: " + e.ID
	case (e.Type == "dropdown" || e.Type == "checkboxes") != (len(a.Options) > 0):
		return "dropdowns and checkboxes have options, and nothing else has"
	case a.Render != "" && e.Type != "textarea":
		return "only a textarea is rendered"
	case a.Multiple && e.Type != "dropdown":
		return "only of a dropdown several can be chosen"
	}
	texts := map[string]bool{}
	for _, option := range a.Options {
		text, _ := option.(string)
		if e.Type == "checkboxes" {
			fields, _ := option.(map[string]any)
			text, _ = fields["label"].(string)
		}
		if text == "" || text == "None" || texts[text] {
			return "an option has no text, that of another, or None, which GitHub adds itself"
		}
		texts[text] = true
	}
	return ""
}

// TestIssueChooser: what is beside the forms leads somewhere.
func TestIssueChooser(t *testing.T) {
	var config struct {
		Blank *bool `json:"blank_issues_enabled"`
		Links []struct {
			Name, URL, About string
		} `json:"contact_links"`
	}
	readYAML(t, "../.github/ISSUE_TEMPLATE/config.yml", &config)
	if config.Blank == nil || len(config.Links) == 0 {
		t.Errorf("it is %+v", config)
	}
	for _, link := range config.Links {
		if link.Name == "" || link.About == "" || !strings.HasPrefix(link.URL, "https://github.com/podfence/podfence/") {
			t.Errorf("contact link %+v", link)
		}
	}
}

// TestCommunityLinks: what these files link to in this repository is there.
func TestCommunityLinks(t *testing.T) {
	seen := 0
	for _, path := range communityFiles(t) {
		for _, found := range regexp.MustCompile(`\]\(([^)\s]+)\)|https://github.com/podfence/podfence/(?:blob|tree)/main/([^\s)]+)`).FindAllStringSubmatch(contentOf(t, path), -1) {
			target, _, _ := strings.Cut(strings.TrimPrefix(found[1]+found[2], "https://github.com/podfence/podfence/blob/main/"), "#")
			target = strings.TrimPrefix(target, "https://github.com/podfence/podfence/tree/main/")
			if target == "" || strings.Contains(target, "://") {
				continue
			}
			seen++
			if _, err := os.Stat(filepath.Join("..", target)); err != nil {
				t.Errorf("%s links to %s: %v", path, target, err)
			}
		}
	}
	if seen < 50 {
		t.Errorf("only %d links seen", seen)
	}
}

// TestCommunityCommands: commands of kubectl podfence and targets of make that these files name are there, with the
// flags that they name.
func TestCommunityCommands(t *testing.T) {
	makefile := contentOf(t, "../Makefile")
	plugins, targets := 0, 0
	for _, path := range communityFiles(t) {
		text := contentOf(t, path)
		for _, found := range regexp.MustCompile("(?m)(?:^ *|`)kubectl[ \n]podfence ([a-z][^`#\n]*)").FindAllStringSubmatch(text, -1) {
			plugins++
			command, rest, err := commands.Command("test", genericiooptions.NewTestIOStreamsDiscard()).Find(strings.Fields(found[1]))
			if err != nil || !command.HasParent() {
				t.Errorf("%s names kubectl podfence %s: %v", path, found[1], err)
				continue
			}
			command.SetOut(io.Discard)
			if err := command.ParseFlags(rest); err != nil {
				t.Errorf("%s names kubectl podfence %s: %v", path, found[1], err)
			}
		}
		for _, found := range regexp.MustCompile("(?m)(?:^ *|`)make ([a-z0-9-]+(?: [a-z0-9-]+)*)").FindAllStringSubmatch(text, -1) {
			for _, target := range strings.Fields(found[1]) {
				targets++
				if !regexp.MustCompile(`(?m)^` + target + `:`).MatchString(makefile) {
					t.Errorf("%s names make %s, and the Makefile has no %s", path, found[1], target)
				}
			}
		}
	}
	if plugins < 12 || targets < 40 {
		t.Errorf("only %d commands of the plugin and %d targets seen", plugins, targets)
	}
}

// TestDevContainer: the container has the Go that go.mod asks for, and installs what the tests need.
func TestDevContainer(t *testing.T) {
	var container struct {
		Image           string   `json:"image"`
		RunArgs         []string `json:"runArgs"`
		OnCreateCommand string   `json:"onCreateCommand"`
	}
	if err := json.Unmarshal([]byte(contentOf(t, "../.devcontainer/devcontainer.json")), &container); err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+\.\d+)$`).FindStringSubmatch(contentOf(t, "../go.mod"))
	if version == nil || !regexp.MustCompile(`^golang:`+regexp.QuoteMeta(version[1])+`-bookworm(@sha256:[0-9a-f]{64})?$`).MatchString(container.Image) {
		t.Errorf("its image is %s, and go.mod has %v", container.Image, version)
	}
	if !slices.Contains(container.RunArgs, "--privileged") {
		t.Errorf("no namespaces of the network can be made in it: %v", container.RunArgs)
	}
	if info, err := os.Stat(filepath.Join("..", container.OnCreateCommand)); err != nil || info.Mode()&0o111 == 0 {
		t.Errorf("it calls %s: %v", container.OnCreateCommand, err)
	}
	if out, err := exec.Command("bash", "-n", filepath.Join("..", container.OnCreateCommand)).CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s", container.OnCreateCommand, err, out)
	}
}

func contentOf(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
