// Command report writes docs/benchmarks.md, and its plots, from the output of Go
// benchmarks:
//
//	go -C test/bench/report run . FOLDER-OF-TXT DOCS-FOLDER
//
// The document is benchmarks.md.tmpl, which asks for each figure by the names that
// the benchmarks print, as in {{cells "ModelLoad" "ns/op"}}: without "Benchmark"
// and the number of CPUs. What did not run is not measured. It is an error if a
// benchmark ran without a unit that the template asks for, and if one ran that the
// template does not ask for: one of the two is misspelt.
package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

//go:embed benchmarks.md.tmpl
var page string

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: report FOLDER-OF-TXT DOCS-FOLDER")
		os.Exit(2)
	}
	if err := report(fromCaller(os.Args[1]), fromCaller(os.Args[2])); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

// fromCaller makes a path absolute by the caller's folder. That of this process is
// another one under go -C, which leaves the shell's PWD as it was.
func fromCaller(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(os.Getenv("PWD"), path)
}

// report reads the results and writes benchmarks.md and the plots that it shows;
// nothing if it finds an error.
func report(results, docs string) error {
	r, err := read(results)
	if err != nil {
		return err
	}
	files, err := render(page, r)
	if err != nil {
		return err
	}
	for path, content := range files {
		path = filepath.Join(docs, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// render fills the template in. It returns files by their paths.
func render(page string, r *results) (map[string][]byte, error) {
	files := map[string][]byte{}
	t, err := template.New("benchmarks.md.tmpl").Funcs(template.FuncMap{
		"config":   r.joined,
		"measured": r.measured,
		"runs":     r.runs,
		"cells":    r.cells,
		"relative": r.relative,
		"plot": func(name, says string) (string, error) {
			path := "benchmarks/" + name + ".svg"
			svg, err := drawn(name, r)
			files[path] = svg
			return fmt.Sprintf("![%s](%s)", says, path), err
		},
	}).Parse(page)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, nil); err != nil {
		return nil, err
	}
	if left := r.unasked(); len(left) > 0 {
		return nil, fmt.Errorf("the template does not ask for %s", strings.Join(left, ", "))
	}
	files["benchmarks.md"] = out.Bytes()
	return files, nil
}

// drawn is one of the plots, as SVG.
func drawn(name string, r *results) ([]byte, error) {
	of, ok := plots[name]
	if !ok {
		return nil, fmt.Errorf("there is no plot %s", name)
	}
	c, err := of(r)
	if err != nil {
		return nil, err
	}
	return c.svg()
}
