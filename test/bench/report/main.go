// Command report writes docs/benchmarks.md, its plots, and the figures in README.md, from
// the output of Go benchmarks:
//
//	go -C test/bench/report run . FOLDER-OF-TXT DOCS-FOLDER README
//
// The document is benchmarks.md.tmpl, which asks for each figure by the names that
// the benchmarks print, as in {{cells "ModelLoad" "ns/op"}}: without "Benchmark"
// and the number of CPUs. What did not run is not measured. It is an error if a
// benchmark ran without a unit that the template asks for, and if one ran that the
// template does not ask for: one of the two is misspelt.
//
// A unit may have others beside it that end in -lo and -hi, as package quantiles reports
// them: what is between them may be chance.
//
// And it compares the results of two versions, which fails if a figure is worse by more percent:
//
//	go -C test/bench/report run . compare FOLDER-OF-OLD FOLDER-OF-NEW PERCENT
package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"
)

//go:embed benchmarks.md.tmpl
var page string

func main() {
	if len(os.Args) == 5 && os.Args[1] == "compare" {
		os.Exit(compareFolders(os.Args[2], os.Args[3], os.Args[4]))
	}
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: report FOLDER-OF-TXT DOCS-FOLDER README\n       report compare FOLDER-OF-OLD FOLDER-OF-NEW PERCENT")
		os.Exit(2)
	}
	if err := report(fromCaller(os.Args[1]), fromCaller(os.Args[2]), fromCaller(os.Args[3])); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

// compareFolders compares the results in two folders, and returns the exit code: 1 if figures are worse by
// more percent than the limit, or if it cannot be said.
func compareFolders(before, after, limit string) int {
	percent, err := strconv.ParseFloat(limit, 64)
	if err != nil {
		fmt.Fprintf(os.Stderr, "report: PERCENT %q is no number\n", limit)
		return 2
	}
	worse, err := compare(fromCaller(before), fromCaller(after), percent, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
	}
	if err != nil || worse > 0 {
		return 1
	}
	return 0
}

// fromCaller makes a path absolute by the caller's folder. That of this process is
// another one under go -C, which leaves the shell's PWD as it was.
func fromCaller(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(os.Getenv("PWD"), path)
}

// report reads the results and writes benchmarks.md, the plots that it shows, and what the
// README says of them; nothing if it finds an error.
func report(results, docs, readme string) error {
	r, err := read(results)
	if err != nil {
		return err
	}
	files, err := render(page, r)
	if err != nil {
		return err
	}
	figures := files[readmeFigures]
	delete(files, readmeFigures)
	for path, content := range files {
		path = filepath.Join(docs, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	if len(figures) == 0 {
		return nil
	}
	return between(readme, figures)
}

// The marks in the README between which it has figures.
const begins, ends = "<!-- bench: written by make bench -->\n", "  <!-- /bench -->\n"

// between puts figures between the marks of a file.
func between(path string, figures []byte) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, rest, begun := bytes.Cut(text, []byte(begins))
	_, tail, ended := bytes.Cut(rest, []byte(ends))
	if !begun || !ended {
		return fmt.Errorf("%s has not the marks %q and %q", path, begins, ends)
	}
	return os.WriteFile(path, slices.Concat(head, []byte(begins), figures, []byte(ends), tail), 0o644)
}

// readmeFigures is what the README says, among the files of render; none if that was not
// measured. It is what the template defines by this name.
const readmeFigures = "readme"

// render fills the template in. It returns files by their paths.
func render(page string, r *results) (map[string][]byte, error) {
	files := map[string][]byte{}
	t, err := template.New("benchmarks.md.tmpl").Funcs(template.FuncMap{
		"config":   r.joined,
		"measured": r.measured,
		"runs":     r.runs,
		"cells":    r.cells,
		"relative": r.relative,
		"atMost":   r.atMost,
		"atLeast":  r.atLeast,
		"each":     r.each,
		"greatest": r.greatest,
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
	if t.Lookup(readmeFigures) != nil {
		var figures bytes.Buffer
		if err := t.ExecuteTemplate(&figures, readmeFigures, nil); err != nil {
			return nil, err
		}
		if figures.Len() > 0 {
			files[readmeFigures] = figures.Bytes()
		}
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
