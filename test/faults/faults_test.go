package faults

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podfence/podfence/test/document"
)

var (
	full  = flag.Bool("faults", false, "put back all faults, not the one that is found soonest")
	only  = flag.String("only", "", "put back these faults, with blanks between")
	seeds = flag.String("seeds", "1", "the first seeds of the suites, with blanks between: each fault must be found from each")
	bound = flag.Duration("bound", 10*time.Minute, "how long a suite may take to find a fault")
	table = flag.String("table", "", "put what was found into this document, between its marks")
)

// root is the module's folder, and readme the table of what has been found. Without -faults
// and -only, the sample alone is put back.
const root, readme, sample = "../..", "README.md", "deleted-policy-isolates-on"

// TestPatches: each patch fits the code of today.
func TestPatches(t *testing.T) {
	for _, f := range faults(t) {
		if _, err := f.patched(root); err != nil {
			t.Errorf("%s does not fit any more: %v", f.name, err)
		}
	}
}

// TestTable: the table has each fault as its patch says, each has been found, and there are no
// others.
func TestTable(t *testing.T) {
	rows := readRows(t, readme)
	for _, f := range faults(t) {
		if row := rows[f.name]; row != row.with(f) || row.cases == notFound || row.cases == notRun {
			t.Errorf("%s has %v: make faults FAULTS=%s", readme, row, f.name)
		}
		delete(rows, f.name)
	}
	for name := range rows {
		t.Errorf("%s is in %s, but there is no patch of it", name, readme)
	}
}

// TestFaults has the suites find the faults.
func TestFaults(t *testing.T) {
	chosen := strings.Fields(*only)
	if !*full && len(chosen) == 0 {
		chosen = []string{sample}
	}
	all := len(chosen) == 0
	for _, f := range faults(t) {
		if !all && !slices.Contains(chosen, f.name) {
			continue
		}
		chosen = slices.DeleteFunc(chosen, func(name string) bool { return name == f.name })
		t.Run(f.name, func(t *testing.T) {
			r := find(t, f)
			t.Logf("%s", r)
			if r.cases == notFound {
				t.Errorf("%s has not found it", f.suite)
			}
			if *table != "" {
				publish(t, r)
			}
		})
	}
	if len(chosen) > 0 {
		t.Errorf("there are no such faults: %s", strings.Join(chosen, " "))
	}
}

func faults(t *testing.T) []fault {
	t.Helper()
	all, err := readFaults()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// find has a suite find a fault, from each of the seeds.
func find(t *testing.T, f fault) row {
	t.Helper()
	dir := t.TempDir()
	module, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := f.overlay(module, dir)
	if err != nil {
		t.Fatal(err)
	}
	s := suites[f.suite]
	// Programs that the suite builds have the fault too.
	env := append(os.Environ(), "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+overlay))
	program := filepath.Join(dir, "suite")
	files, err := s.files(module)
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", append([]string{"test", "-c", "-ldflags", "-s -w", "-o", program}, files...)...)
	build.Dir, build.Env = module, env
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	r := row{}.with(f)
	var counts []string
	var slowest time.Duration
	for _, word := range strings.Fields(*seeds) {
		var seed int64
		if _, err := fmt.Sscan(word, &seed); err != nil {
			t.Fatalf("seed %q: %v", word, err)
		}
		began := time.Now()
		cases, words := s.hunt(t, program, filepath.Join(module, s.pkg), env, seed)
		if cases == 0 {
			r.cases = notFound
			return r
		}
		t.Logf("found from seed %d, after %d cases, in %v:\n%s", seed, cases, time.Since(began).Round(time.Millisecond), words)
		counts, slowest = append(counts, fmt.Sprint(cases)), max(slowest, time.Since(began))
	}
	r.cases, r.took = strings.Join(counts, ", "), slowest.Round(100*time.Millisecond).String()
	return r
}

// tries are how often a suite is tried at most, with more cases each time.
const tries = 5

// hunt runs a suite until it has found something, or the time is over. It returns after how
// many cases that was, and what was said of it; 0 if there was nothing.
func (s suite) hunt(t *testing.T, program, dir string, env []string, seed int64) (cases int64, words string) {
	t.Helper()
	until := time.Now().Add(*bound)
	for try := range tries {
		left := time.Until(until)
		if left < 20*time.Second {
			break
		}
		ctx, cancel := context.WithTimeout(context.Background(), left+time.Minute)
		args := append([]string{"-test.run", "^(" + s.run + ")$", "-test.failfast", "-test.timeout", (left + 30*time.Second).String()}, s.args(seed, try, left)...)
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Dir, cmd.Env = dir, env
		out, err := cmd.CombinedOutput()
		cancel()
		over := strings.Contains(string(out), "\npanic: test timed out")
		if cases = s.cases(out, seed); err != nil && cases > 0 && !over {
			return cases, firstLines(out)
		}
		t.Logf("%s has not found it: %v\n%s", cmd, err, firstLines(out))
		if over || strings.Contains(string(out), "SKIP") {
			return 0, ""
		}
	}
	return 0, ""
}

// firstLines are the beginning of what a suite has printed.
func firstLines(out []byte) string {
	const most = 2000
	return string(out[:min(len(out), most)])
}

// publish puts a row into the table, in place of the fault's earlier one.
func publish(t *testing.T, r row) {
	t.Helper()
	rows := readRows(t, *table)
	rows[r.name] = r
	var text strings.Builder
	var took time.Duration // by all suites, whenever they ran
	text.WriteString("| Fault | Kind | What is wrong | Found by | After so many cases, by seed | The slowest in |\n|---|---|---|---|---|---|\n")
	for _, f := range faults(t) {
		row, is := rows[f.name]
		if !is {
			row = row.with(f)
			row.cases = notRun
		}
		one, _ := time.ParseDuration(row.took) // none: it was not found
		took += one
		fmt.Fprintln(&text, row)
	}
	if err := document.Publish(*table, "faults", text.String(), took); err != nil {
		t.Error(err)
	}
}
