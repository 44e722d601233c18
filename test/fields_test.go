package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/test/inputs"
)

// fieldRooms are the rooms where a type's private fields are its own: only its methods, and
// functions in the file that declares it, touch them.
var fieldRooms = []string{module + "/agent", module + "/cli", module + "/controllers", module + "/kubectl-podfence", module + "/manifests", module + "/ruleset/nft"}

// fieldExceptions are types whose private fields other files of their package touch as well, and
// why.
var fieldExceptions = map[string]string{
	// Kubebuilder's layout has a reconciler a file; all of them are one source.
	module + "/controllers.Source": "its reconcilers",
	// What was read of a file, as plain data: nothing depends on who reads it.
	module + "/manifests.node":        "plain data",
	module + "/manifests.member":      "plain data",
	module + "/manifests.part":        "plain data",
	module + "/manifests.listing":     "plain data",
	module + "/manifests.problem":     "plain data",
	module + "/manifests.splitList":   "plain data",
	module + "/manifests.syntaxError": "plain data",
	module + "/manifests.Objects":     "plain data",
	module + "/manifests.podTemplate": "plain data",
	module + "/manifests.id":          "plain data",
	module + "/manifests.reader":      "one reader, a file for each of its steps",
	// What commands ask about, whatever it was read of.
	module + "/kubectl-podfence/commands.objects": "plain data",
	module + "/kubectl-podfence/ui.moment":        "is not changed once it was made",
	// Values of flags, which several files of the command line read.
	module + "/cli.enforcement": "flags",
	module + "/cli.network":     "flags",
	module + "/cli.cniFlags":    "flags",
	// Each datatype is described once, and read where sets, texts and bytes are made.
	module + "/ruleset/nft.description": "a description",
}

// goPackage is what go list says of a package.
type goPackage struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
}

// packages lists the module's packages and all that they import, with what the compiler has
// exported of each.
func packages(t *testing.T) (all []goPackage, exports map[string]string) {
	t.Helper()
	if err := inputs.Packages(module + "/..."); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles", module, module+"/kubectl-podfence").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	exports = map[string]string{}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var one goPackage
		if err := decoder.Decode(&one); errors.Is(err, io.EOF) {
			return all, exports
		} else if err != nil {
			t.Fatal(err)
		}
		all, exports[one.ImportPath] = append(all, one), one.Export
	}
}

// TestFieldsArePrivate: no type's private fields are touched from another file of its package,
// but by its own methods.
func TestFieldsArePrivate(t *testing.T) {
	all, exports := packages(t)
	used := map[string]bool{}
	looked := 0
	for _, pkg := range all {
		if !slices.ContainsFunc(fieldRooms, func(room string) bool { return in(pkg.ImportPath, room) }) {
			continue
		}
		uses, touched := touches(t, pkg, exports)
		looked += uses
		for _, one := range touched {
			if why := fieldExceptions[one.of]; why != "" {
				used[one.of] = true
				continue
			}
			t.Errorf("%s touches %s of %s, which another file declares", one.where, one.field, one.of)
		}
	}
	if looked < 500 {
		t.Errorf("only %d uses of private fields seen", looked)
	}
	for name := range fieldExceptions {
		if !used[name] {
			t.Errorf("%s needs no exception", name)
		}
	}
}

// touch is a use of a private field.
type touch struct{ where, field, of string }

// touches are the uses of private fields that are not their types' own, and how many uses there
// are at all.
func touches(t *testing.T, pkg goPackage, exports map[string]string) (uses int, all []touch) {
	t.Helper()
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range pkg.GoFiles {
		file, err := parser.ParseFile(fset, filepath.Join(pkg.Dir, name), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	config := types.Config{Importer: importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}}
	checked, err := config.Check(pkg.ImportPath, fset, files, info)
	if err != nil {
		t.Fatal(err)
	}
	owners := fieldOwners(checked)
	for _, file := range files {
		for _, decl := range file.Decls {
			own := receiver(info, decl)
			ast.Inspect(decl, func(node ast.Node) bool {
				ident, is := node.(*ast.Ident)
				if !is {
					return true
				}
				field, is := info.Uses[ident].(*types.Var)
				if !is || !field.IsField() || field.Exported() || field.Pkg() != checked || owners[field] == nil {
					return true
				}
				uses++
				at, declared := fset.Position(ident.Pos()), fset.Position(field.Pos())
				if at.Filename != declared.Filename && owners[field] != own {
					all = append(all, touch{fmt.Sprintf("%s:%d", strings.TrimPrefix(at.Filename, filepath.Dir(pkg.Dir)+"/"), at.Line), field.Name(), pkg.ImportPath + "." + owners[field].Name()})
				}
				return true
			})
		}
	}
	return uses, all
}

// fieldOwners are the named types of a package by their private fields.
func fieldOwners(pkg *types.Package) map[*types.Var]*types.TypeName {
	owners := map[*types.Var]*types.TypeName{}
	for _, name := range pkg.Scope().Names() {
		typeName, is := pkg.Scope().Lookup(name).(*types.TypeName)
		if !is || typeName.IsAlias() {
			continue
		}
		if structure, is := typeName.Type().Underlying().(*types.Struct); is {
			for i := range structure.NumFields() {
				if field := structure.Field(i); !field.Exported() && !field.Embedded() {
					owners[field] = typeName
				}
			}
		}
	}
	return owners
}

// receiver is the type that a declaration is a method of; nil: it is none.
func receiver(info *types.Info, decl ast.Decl) *types.TypeName {
	f, is := decl.(*ast.FuncDecl)
	if !is {
		return nil
	}
	function, is := info.Defs[f.Name].(*types.Func)
	if !is || function.Signature().Recv() == nil {
		return nil
	}
	of := function.Signature().Recv().Type()
	if pointer, is := of.(*types.Pointer); is {
		of = pointer.Elem()
	}
	if named, is := of.(*types.Named); is {
		return named.Obj()
	}
	return nil
}
