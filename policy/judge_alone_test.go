package policy_test

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestJudgeStandsAlone: Judge calls nothing that the judged code calls, neither in this package nor
// in a library. A mistake in shared code would be in both, and they would agree on it.
func TestJudgeStandsAlone(t *testing.T) {
	files := sourceFiles(t, ".")
	for at, called := range foreign(t, files) {
		t.Errorf("%s: the oracle calls %s, which is not its own", at, called)
	}

	// Were it to call something of the others', this is how it would be seen.
	const careless = `package policy

import "k8s.io/apimachinery/pkg/labels"

func judgeCarelessly(p Packet) bool {
	_, err := ParsePrefix("10.0.0.0/8")
	return err == nil && p.ReportsError() && labels.Everything() != nil
}
`
	seen := foreign(t, append(files, source(t, "judge_careless.go", careless)))
	if len(seen) != 3 {
		t.Errorf("of three calls of what is the others' were seen %v", seen)
	}
}

// fset has the places of all that this test parses.
var fset = token.NewFileSet()

// sourceFiles are a package's files.
func sourceFiles(t *testing.T, folder string) (files []*ast.File) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil || len(names) == 0 {
		t.Fatalf("the package's files: %v, %v", names, err)
	}
	for _, name := range names {
		if !strings.HasSuffix(name, "_test.go") {
			files = append(files, source(t, name, nil))
		}
	}
	return files
}

func source(t *testing.T, name string, text any) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(fset, name, text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// foreign are the functions, methods and variables that Judge's files use and that belong neither
// to these files nor to the standard library, by the place where they are used.
func foreign(t *testing.T, files []*ast.File) map[string]string {
	t.Helper()
	found := map[string]string{}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	// What a packet is, a package of its own says, by whose names the package has it.
	packets, err := (&types.Config{Importer: importer.Default()}).Check(packetPath, fset, sourceFiles(t, "packet"), nil)
	if err != nil {
		t.Fatal(err)
	}
	// Of what else is not the standard library's nothing is known but the name: it is plain data.
	config := types.Config{Importer: known{importer.Default(), packets}, Error: func(error) {}}
	pkg, _ := config.Check("policy", fset, files, info)
	for name, used := range info.Uses {
		if !ours(name.Pos()) || used.Pkg() != pkg && used.Pkg() != packets || ours(used.Pos()) {
			continue
		}
		switch used := used.(type) {
		case *types.Func:
			found[fset.Position(name.Pos()).String()] = used.Name()
		case *types.Var:
			if used.Parent() == used.Pkg().Scope() {
				found[fset.Position(name.Pos()).String()] = used.Name()
			}
		}
	}
	for _, file := range files {
		if !ours(file.Pos()) {
			continue
		}
		libraries := librariesOf(file)
		ast.Inspect(file, func(n ast.Node) bool {
			call, is := n.(*ast.CallExpr)
			if !is {
				return true
			}
			if called, is := call.Fun.(*ast.SelectorExpr); is {
				of, named := called.X.(*ast.Ident)
				// A UID is a string by another name: no function.
				if text := types.ExprString(called); named && libraries[of.Name] && text != "types.UID" {
					found[fset.Position(call.Pos()).String()] = text
				}
			}
			return true
		})
	}
	return found
}

// ours reports whether something is in one of Judge's files.
func ours(at token.Pos) bool {
	return strings.HasPrefix(filepath.Base(fset.Position(at).Filename), "judge")
}

// librariesOf are the names by which a file knows what is not the standard library's.
func librariesOf(file *ast.File) map[string]bool {
	names := map[string]bool{}
	for _, spec := range file.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		if standard(path) {
			continue
		}
		name := path[strings.LastIndex(path, "/")+1:]
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = true
	}
	return names
}

// standard reports whether a package is of the standard library.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

// packetPath is the package that says what a packet is.
const packetPath = "github.com/podfence/podfence/policy/packet"

// known imports the standard library and that package alone.
type known struct {
	types.Importer
	packets *types.Package
}

func (k known) Import(path string) (*types.Package, error) {
	if standard(path) {
		return k.Importer.Import(path)
	}
	if path == packetPath {
		return k.packets, nil
	}
	pkg := types.NewPackage(path, path[strings.LastIndex(path, "/")+1:])
	pkg.MarkComplete()
	return pkg, nil
}
