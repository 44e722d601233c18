package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCompare: a figure counts that is worse by more than the limit, whichever way is worse for its
// unit, and not one that is better, or that chance may have moved.
func TestCompare(t *testing.T) {
	for _, c := range []struct{ name, before, after, worse string }{
		{"slower", "100 ns/op", "112 ns/op", "12 %"},
		{"a little slower", "100 ns/op", "109 ns/op", ""},
		{"faster", "100 ns/op", "50 ns/op", ""},
		{"less throughput", "10 Gbit/s", "8 Gbit/s", "20 %"},
		{"more throughput", "10 Gbit/s", "12 Gbit/s", ""},
		{"more lost", "0 lost", "3 lost", "1000 %"},
		{"within its interval", "100 p50-us 80 p50-us-lo 130 p50-us-hi", "120 p50-us", ""},
		{"out of its interval", "100 p50-us 95 p50-us-lo 105 p50-us-hi", "120 p50-us", "20 %"},
		{"the machine", "4 cores 1 ns/op", "8 cores 1 ns/op", ""},
	} {
		var out strings.Builder
		count, err := compare(resultsOf(t, c.before), resultsOf(t, c.after), 10, &out)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if (count == 1) != (c.worse != "") || c.worse != "" && !strings.Contains(out.String(), "| "+c.worse+" |") {
			t.Errorf("%s: %d worse, wanted %q:\n%s", c.name, count, c.worse, &out)
		}
	}
}

// TestCompareRounds: that rounds overlap is chance, however far the medians are apart.
func TestCompareRounds(t *testing.T) {
	before, after := resultsOf(t, "100 ns/op", "90 ns/op", "140 ns/op"), resultsOf(t, "130 ns/op", "131 ns/op", "135 ns/op")
	if count, err := compare(before, after, 10, &strings.Builder{}); count != 0 || err != nil {
		t.Errorf("%d, %v", count, err)
	}
}

// TestCompareNothing: results that have nothing in common are an error, and not "nothing is worse".
func TestCompareNothing(t *testing.T) {
	if _, err := compare(resultsOf(t, "1 ns/op"), resultsOf(t, "1 B/op"), 10, &strings.Builder{}); err == nil || !strings.Contains(err.Error(), "nothing to compare") {
		t.Errorf("%v", err)
	}
	if _, err := compare(t.TempDir(), resultsOf(t, "1 B/op"), 10, &strings.Builder{}); err == nil {
		t.Error("an empty folder is compared")
	}
}

// resultsOf is a folder with the results of a benchmark, a run in each line.
func resultsOf(t *testing.T, runs ...string) string {
	t.Helper()
	text := "commit: abc\n"
	for _, run := range runs {
		text += "BenchmarkIt-2 10 " + run + "\n"
	}
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "round-1.txt"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return folder
}
