package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/benchmarks.md anew")

// folder has one file of results.
func folder(t *testing.T, content string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "results.txt"), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func mustRead(t *testing.T, dir string) *results {
	t.Helper()
	r, err := read(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRead(t *testing.T) {
	dir := folder(t, `kernel: 6.18.0
BenchmarkA/pods=10-2   	1	3000 ns/op	7 MB-rss
some test's log
BenchmarkA/pods=10-2   	1	1000 ns/op	5 MB-rss
PASS
`)
	if err := os.WriteFile(filepath.Join(dir, "second.txt"), []byte("kernel: 6.18.1\nBenchmarkA/pods=10 1 0 ns/op\nBenchmarkB-16 1 2 p50-us\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := mustRead(t, dir)
	for _, want := range []struct {
		name, unit string
		values     []float64
	}{
		{"A/pods=10", "ns/op", []float64{3000, 1000, 0}},
		{"A/pods=10", "MB-rss", []float64{7, 5}},
		{"B", "p50-us", []float64{2}},
	} {
		if have := r.values[want.name][want.unit]; !slices.Equal(have, want.values) {
			t.Errorf("%s %s: have %v, want %v", want.name, want.unit, have, want.values)
		}
	}
	if have := r.joined("kernel"); have != "6.18.0, 6.18.1" {
		t.Errorf("kernel: %s", have)
	}
	if have := r.runs("A"); have != "2 to 3" {
		t.Errorf("runs of A: %s", have)
	}
	if have := r.runs("B"); have != "1" {
		t.Errorf("runs of B: %s", have)
	}
}

func TestUnreadable(t *testing.T) {
	for name, dir := range map[string]string{
		"no files":      t.TempDir(),
		"no such place": filepath.Join(t.TempDir(), "missing"),
		// As when a test's log gets between the name and the figures.
		"a torn line": folder(t, "BenchmarkA-2 \tlevel=info msg=hello\n"),
	} {
		if _, err := read(dir); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestFigure(t *testing.T) {
	for _, c := range []struct {
		unit   string
		values []float64
		want   string
	}{
		{"ns/op", []float64{413_000_000}, "413 ms"},
		{"ns/op", []float64{2.5e9, 1.5e9, 2.25e9}, "2.25 s (1.5 to 2.5)"},
		{"ns/op", []float64{9_450}, "9.45 µs"},
		{"ns/op", []float64{12.3}, "12.3 ns"},
		{"p50-us", []float64{9_450.4}, "9,450 µs"},
		{"close-p10-ms", []float64{0, 0.2, 0}, "0 ms (0 to 0.2)"},
		{"open-p99-ms", []float64{10, 20}, "15 ms (10 to 20)"},
		{"s-ready", []float64{0.84}, "0.84 s"},
		{"MB-rss", []float64{100}, "100 MB"},
		{"conn/s", []float64{1_234_567.8}, "1,234,568 conn/s"},
		{"Mpkt/s", []float64{0.5081}, "0.51 Mpkt/s"},
		{"cpu-ns/conn", []float64{80_000, 90_000}, "85 µs (80 to 90)"},
		{"cpu-ns/packet", []float64{-4_500}, "-4.5 µs"},
		{"cores", []float64{0.996}, "1 cores"},
	} {
		if have := newFigure(c.unit, c.values, nil, nil).String(); have != c.want {
			t.Errorf("%v %s: have %q, want %q", c.values, c.unit, have, c.want)
		}
	}
}

func TestRelative(t *testing.T) {
	r := mustRead(t, folder(t, "BenchmarkEmpty 1 20 conn/s\nBenchmarkEmpty 1 22 conn/s\nBenchmarkFull 1 18.9 conn/s\nBenchmarkFull 1 21 conn/s\n"))
	for base, want := range map[string]string{"Empty": "95 % (90 to 100)", "Missing": "not measured"} {
		if have, err := r.relative("Full", base, "conn/s"); err != nil || have != want {
			t.Errorf("relative to %s: have %q, %v, want %q", base, have, err, want)
		}
	}
}

// TestIntervals: a figure's interval is what its runs differ by, or what they say they may
// differ by themselves, if that is more.
func TestIntervals(t *testing.T) {
	r := mustRead(t, folder(t, `BenchmarkA 1 10 p50-ms 9 p50-ms-lo 12 p50-ms-hi
BenchmarkA 1 11 p50-ms 10 p50-ms-lo 15 p50-ms-hi
BenchmarkA 1 16 p50-ms 10 p50-ms-lo 16 p50-ms-hi
BenchmarkB 1 4 p50-ms
`))
	if have, err := r.cells("A", "p50-ms"); err != nil || have != "11 ms (10 to 16)" {
		t.Errorf("have %q, %v", have, err)
	}
	for bar, want := range map[float64][2]string{
		16: {"16 ms: met", "16 ms: within the noise"},
		9:  {"9 ms: **missed**", "9 ms: met"},
		12: {"12 ms: within the noise", "12 ms: within the noise"},
		17: {"17 ms: met", "17 ms: **missed**"},
	} {
		most, err := r.atMost("A", "p50-ms", bar)
		least, err2 := r.atLeast("A", "p50-ms", bar)
		if err != nil || err2 != nil || most != want[0] || least != want[1] {
			t.Errorf("have %q, %q, %v, %v, want %q", most, least, err, err2, want)
		}
	}
	if have, err := r.atMost("Missing", "p50-ms", 3); err != nil || have != "3 ms" {
		t.Errorf("of nothing: have %q, %v", have, err)
	}
	if have, err := r.each("A", "B", "p50-ms", 10); err != nil || have != "0.7 ms (0.6 to 1.2)" {
		t.Errorf("each: have %q, %v", have, err)
	}
}

// TestReport writes the document from made-up results of all benchmarks.
func TestReport(t *testing.T) {
	docs, golden := t.TempDir(), filepath.Join("testdata", "benchmarks.md")
	readme := filepath.Join(docs, "README.md")
	if err := os.WriteFile(readme, []byte("before\n  "+begins+"  old\n"+ends+"after\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := report("testdata", docs, readme); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"before\n  <!-- bench", "99 changes of a label in 100 are in force\n  7.56 ms after", "takes 68.2 MB", "<!-- /bench -->\nafter\n"} {
		if text, err := os.ReadFile(readme); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("the README has not %q: %v\n%s", want, err, text)
		}
	}
	have, err := os.ReadFile(filepath.Join(docs, "benchmarks.md"))
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(golden, have, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Errorf("not as in %s; if that is right, run go test with -update and read the difference:\n%s", golden, have)
	}
	for name := range plots {
		svg, err := os.ReadFile(filepath.Join(docs, "benchmarks", name+".svg"))
		if err != nil {
			t.Errorf("the document does not show it: %v", err)
		}
		for d := xml.NewDecoder(bytes.NewReader(svg)); err == nil; {
			if _, err = d.Token(); err != nil && !errors.Is(err, io.EOF) {
				t.Errorf("%s.svg: %v", name, err)
			}
		}
	}
}

func TestSameInputSameOutput(t *testing.T) {
	first, err := render(page, mustRead(t, "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := render(page, mustRead(t, "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	if !maps.EqualFunc(first, second, bytes.Equal) {
		t.Error("two runs differ")
	}
}

// TestNamesOfTemplateAndPlots has all names that are asked for among the made-up
// results: one that is misspelt, or asked for by a plot alone, shows here.
func TestNamesOfTemplateAndPlots(t *testing.T) {
	r := mustRead(t, "testdata")
	if _, err := render(page, r); err != nil {
		t.Fatal(err)
	}
	for name := range r.asked {
		if r.values[name] == nil {
			t.Errorf("%s is asked for, and not in testdata", name)
		}
	}
}

func TestSectionsWithoutResults(t *testing.T) {
	files, err := render(page, mustRead(t, folder(t, "BenchmarkModelLoad-2 1 4e8 ns/op 100 MB-live\n")))
	if err != nil {
		t.Fatal(err)
	}
	document := string(files["benchmarks.md"])
	if !strings.Contains(document, "| time | 400 ms | 3 s: met |") {
		t.Errorf("no figure of the section that has results:\n%s", document)
	}
	const absent = "Not measured in this run."
	if have, want := strings.Count(document, absent), strings.Count(page, absent)-1; have != want {
		t.Errorf("%d are not measured, want %d:\n%s", have, want, document)
	}
	if len(files) != 1 {
		t.Errorf("plots of nothing: %v", slices.Sorted(maps.Keys(files)))
	}
}

// TestPartOfASection has one size of cluster only.
func TestPartOfASection(t *testing.T) {
	files, err := render(page, mustRead(t, folder(t, "BenchmarkAgent/pods=5000/policies=500-2 1 40 MB-rss 60 MB-peak 1 s-ready\n")))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| no load | not measured | not measured | not measured | |",
		"| 5,000 pods, 500 policies | 40 MB | 60 MB | 1 s | 50 MB: met |",
	} {
		if !bytes.Contains(files["benchmarks.md"], []byte(want)) {
			t.Errorf("no %q:\n%s", want, files["benchmarks.md"])
		}
	}
	if files["benchmarks/memory.svg"] == nil {
		t.Error("no plot")
	}
}

func TestMisspelt(t *testing.T) {
	for page, want := range map[string]string{
		`{{cells "ModelLoad" "MB-alive"}}`: "ModelLoad has no MB-alive; it has MB-live, ns/op",
		`{{cells "ModelLaod" "ns/op"}}`:    "does not ask for ModelLoad",
		`{{plot "modelload" "a plot"}}`:    "no plot modelload",
		`{{cell "ModelLoad" "ns/op"}}`:     `function "cell" not defined`,
	} {
		_, err := render(page, mustRead(t, folder(t, "BenchmarkModelLoad-2 1 4e8 ns/op 100 MB-live\n")))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: have error %v, want %q", page, err, want)
		}
	}
}
