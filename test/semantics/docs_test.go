package semantics_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	row      = regexp.MustCompile(`(?m)^\| (A\d+) \|.*\| ([^|]+) \|$`)
	testName = regexp.MustCompile(`^Test(A\d+)_[A-Z]`)
)

// TestDocumented: docs/SEMANTICS.md has a row for each of A1 to A48, each row
// names the test there is, and there is no other.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "SEMANTICS.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string][]string{} // by item
	for _, found := range row.FindAllStringSubmatch(string(text), -1) {
		if _, twice := documented[found[1]]; twice {
			t.Errorf("%s has two rows", found[1])
		}
		names := strings.Split(strings.ReplaceAll(found[2], "`", ""), ", ")
		slices.Sort(names)
		documented[found[1]] = names
	}
	tests := testsByItem(t)
	for i := 1; i <= 48; i++ {
		item := fmt.Sprintf("A%d", i)
		if documented[item] == nil {
			t.Errorf("%s has no row in docs/SEMANTICS.md", item)
		}
		slices.Sort(tests[item])
		if !slices.Equal(tests[item], documented[item]) {
			t.Errorf("docs/SEMANTICS.md names %q for %s; there is %q", documented[item], item, tests[item])
		}
	}
	for item, names := range tests {
		if documented[item] == nil {
			t.Errorf("%s has tests %q but no row", item, names)
		}
	}
	if len(documented) != 48 {
		t.Errorf("%d rows, want 48", len(documented))
	}
}

// testsByItem are the test functions of this folder that are named after items.
func testsByItem(t *testing.T) map[string][]string {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string][]string{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			f, is := decl.(*ast.FuncDecl)
			if !is || f.Recv != nil {
				continue
			}
			if found := testName.FindStringSubmatch(f.Name.Name); found != nil {
				tests[found[1]] = append(tests[found[1]], f.Name.Name)
			}
		}
	}
	return tests
}
