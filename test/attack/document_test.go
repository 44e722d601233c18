package attack_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// shownBy is the last column of the tables of docs/SECURITY.md that say what holds.
const shownBy = "shown by"

// TestEachPromiseIsShown: each row of docs/SECURITY.md says in which mode it holds, and names a
// test, or a target of the Makefile, that there is.
func TestEachPromiseIsShown(t *testing.T) {
	text, err := os.ReadFile("../../docs/SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := testNames(t)
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`")
	rows, header := 0, ""
	for _, line := range strings.Split(string(text), "\n") {
		if !strings.HasPrefix(line, "|") {
			header = ""
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		last := strings.TrimSpace(cells[len(cells)-1])
		switch {
		case header == "":
			header = last
			continue
		case header != shownBy || strings.HasPrefix(last, "---"):
			continue
		}
		rows++
		for _, cell := range cells {
			if cell := strings.TrimSpace(cell); cell == "" || cell == "–" || cell == "-" {
				t.Errorf("a cell says nothing: %s", line)
			}
		}
		shown := strings.Contains(last, "`make ")
		for _, name := range named.FindAllStringSubmatch(last, -1) {
			shown = true
			if !tests[name[1]] {
				t.Errorf("there is no %s: %s", name[1], line)
			}
		}
		if !shown {
			t.Errorf("nothing shows it: %s", line)
		}
	}
	if rows < 25 {
		t.Errorf("only %d rows with %q in their last column", rows, shownBy)
	}
}

// testNames are the names of all tests and fuzz targets of the project.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, name := range function.FindAllStringSubmatch(string(text), -1) {
			all[name[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
