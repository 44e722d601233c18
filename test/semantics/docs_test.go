package semantics_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	row      = regexp.MustCompile(`(?m)^\| ([AB]\d+) \|.*\| ([^|]+) \|$`)
	testName = regexp.MustCompile(`^Test([AB]\d+)_[A-Z]`)
)

// TestDocumented: docs/SEMANTICS.md has a row for each of A1 to A49 and of B1 to B12, each row
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
	tests, err := testsByItem()
	if err != nil {
		t.Fatal(err)
	}
	var items []string
	for i := range 49 {
		items = append(items, fmt.Sprintf("A%d", i+1))
	}
	for i := range 12 {
		items = append(items, fmt.Sprintf("B%d", i+1))
	}
	for _, item := range items {
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
	if len(documented) != len(items) {
		t.Errorf("%d rows, want %d", len(documented), len(items))
	}
}

// testsByItem are the test functions of this folder that are named after items.
func testsByItem() (map[string][]string, error) {
	tests := map[string][]string{}
	files, err := testFiles()
	for _, file := range files {
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
	return tests, err
}

// testFiles are the syntax trees of this folder's tests.
func testFiles() (files []*ast.File, err error) {
	names, err := filepath.Glob("*_test.go")
	for _, name := range names {
		file, parseErr := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		files, err = append(files, file), errors.Join(err, parseErr)
	}
	return files, err
}

// skipped are the tests that could not be done here.
var skipped = map[string]bool{}

// skip skips a test. What its item says is not tested then; see untested.
func skip(t *testing.T, why error) {
	t.Helper()
	test, _, _ := strings.Cut(t.Name(), "/")
	skipped[test] = true
	t.Skipf("skipped: %v", why)
}

// untested is an error if there are items all of whose tests were skipped: what is
// documented counts as tested only if it was.
func untested() error {
	if len(skipped) == 0 {
		return nil
	}
	tests, err := testsByItem()
	for _, item := range slices.Sorted(maps.Keys(tests)) {
		names := tests[item]
		if !slices.ContainsFunc(names, func(name string) bool { return !skipped[name] }) {
			err = errors.Join(err, fmt.Errorf("%s of docs/SEMANTICS.md is not tested: %s skipped", item, strings.Join(names, ", ")))
		}
	}
	return err
}

// TestSkipsAreNoted: no test of this folder is skipped but by skip.
func TestSkipsAreNoted(t *testing.T) {
	files, err := testFiles()
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			if call, is := n.(*ast.SelectorExpr); is && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, call.Sel.Name) {
				calls++
			}
			return true
		})
	}
	if calls != 1 {
		t.Errorf("%d calls skip a test: untested knows of those by skip alone", calls)
	}
}
