package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// line is an event of a package p, as test2json prints it.
func line(action, test, output string) string {
	return `{"Action":"` + action + `","Package":"` + module + `/p","Test":"` + test + `","Elapsed":1.5,"Output":"` + output + `"}` + "\n"
}

// skip are the events of a test that is skipped.
func skip(test, reason string) string {
	return line("output", test, `=== RUN   `+test+`\n`) +
		line("output", test, `    p_test.go:12: skipped: `+reason+`\n`) +
		line("output", test, `--- SKIP: `+test+` (0.00s)\n`) +
		line("skip", test, "")
}

func TestLog(t *testing.T) {
	passed, ended := line("pass", "TestA", ""), line("pass", "", "")
	for _, c := range []struct {
		name, skips, events string
		want, not           []string
		fails               bool
	}{
		{name: "passed", events: line("output", "TestA", `    p_test.go:1: chatter\n`) + passed + ended,
			want: []string{"ok   p", "1 passed", "1.5 s"}, not: []string{"chatter"}},
		{name: "failed", events: line("output", "TestA", `    p_test.go:1: have 1, want 2\n`) + line("fail", "TestA", "") + line("output", "", `FAIL\n`) + line("fail", "", ""),
			want: []string{"p: TestA\n    p_test.go:1: have 1, want 2\n", "FAIL p", "p has failed"}, fails: true},
		{name: "timeout", events: passed + line("output", "TestB", `panic: test timed out\n`) + line("fail", "", ""),
			want: []string{"p: TestB has not ended\npanic: test timed out\n"}, fails: true},
		{name: "no build", events: `{"ImportPath":"` + module + `/p [` + module + `/p.test]","Action":"build-output","Output":"p.go:1:1: undefined: x\n"}` + "\n" +
			`{"Action":"fail","Package":"` + module + `/p","FailedBuild":"` + module + `/p [` + module + `/p.test]"}`,
			want: []string{"p.go:1:1: undefined: x\n", "FAIL p"}, fails: true},
		{name: "cut off", events: passed, want: []string{"p has not ended"}, fails: true},
		{name: "nothing", events: "go: no such package\n", want: []string{"go: no such package\n"}, fails: true},
		{name: "TestMain that runs nothing", events: ended, want: []string{"p: no test has passed"}, fails: true},
		{name: "no test files", events: passed + ended + strings.ReplaceAll(line("skip", "", ""), "/p", "/q"), not: []string{"q"}},

		{name: "skipped, expected", skips: ". p TestB no kernel .*", events: passed + skip("TestB", "no kernel for it") + ended,
			want: []string{"skipped: p TestB: no kernel for it"}, not: []string{"unexpectedly", "not skipped"}},
		{name: "skipped, unexpectedly", events: passed + skip("TestB", "no kernel for it") + ended,
			want: []string{"skipped, unexpectedly: p TestB: no kernel for it"}, fails: true},
		{name: "without a reason", events: passed + line("skip", "TestB", "") + ended, want: []string{"p TestB: no reason"}, fails: true},
		{name: "for another reason", skips: ". p TestB no root", events: passed + skip("TestB", "no kernel for it") + ended,
			want: []string{"skipped, unexpectedly"}, fails: true},
		{name: "another test", skips: ". p TestB no kernel for it", events: passed + skip("TestB/case", "no kernel for it") + ended,
			want: []string{"skipped, unexpectedly"}, fails: true},
		{name: "on another kernel", skips: `^kernels p TestB no kernel for it`, events: passed + skip("TestB", "no kernel for it") + ended,
			want: []string{"skipped, unexpectedly"}, not: []string{"not skipped"}, fails: true},
		{name: "not skipped any more", skips: "^test p TestA no root", events: passed + ended, want: []string{"not skipped, and skips.txt expects it: ^test p TestA no root"}},
		{name: "of another package", skips: ". q TestB no root", events: passed + ended, not: []string{"not skipped"}},
		{name: "ginkgo", events: line("output", "TestA", `SUCCESS! -- \u001b[1m3 Passed\u001b[0m | 0 Failed | 0 Pending | \u001b[38;5;14m\u001b[1m2 Skipped\u001b[0m\n`) + passed + ended,
			want: []string{"p TestA: specs were left out", "2 Skipped"}, fails: true},
		{name: "ginkgo, all", events: line("output", "TestA", `SUCCESS! -- 30 Passed | 0 Failed | 0 Pending | 0 Skipped\n`) + passed + ended},
	} {
		t.Run(c.name, func(t *testing.T) {
			expected, err := parse("# none of these:\n\n" + c.skips)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			l := newLog(&out, at(expected, "test 6.1.0"))
			if err := l.read(strings.NewReader(c.events)); err != nil {
				t.Fatal(err)
			}
			if err := l.end(); (err != nil) != c.fails {
				t.Errorf("the error is %v", err)
			}
			for _, want := range c.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("without %q", want)
				}
			}
			for _, not := range c.not {
				if strings.Contains(out.String(), not) {
					t.Errorf("with %q", not)
				}
			}
			if t.Failed() {
				t.Log(out.String())
			}
		})
	}
}

func TestSlowestFirst(t *testing.T) {
	var out bytes.Buffer
	l := newLog(&out, nil)
	for pkg, seconds := range map[string]float64{"a": 2, "b": 11, "c": 3} {
		l.take(event{Action: "pass", Package: module + "/" + pkg, Test: "TestA"})
		l.take(event{Action: "pass", Package: module + "/" + pkg, Elapsed: seconds})
	}
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	if want := "    11.0 b\n     3.0 c\n     2.0 a\n"; !strings.Contains(out.String(), want) {
		t.Errorf("without %q:\n%s", want, out.String())
	}
}

// TestSkips: each line of skips.txt is one, of a package that there is, with a test.
func TestSkips(t *testing.T) {
	all, err := parse(skips)
	if err != nil || len(all) == 0 {
		t.Fatal(err)
	}
	for _, e := range all {
		files, err := filepath.Glob(filepath.Join("../..", e.pkg, "*_test.go"))
		if err != nil || len(files) == 0 {
			t.Errorf("%s: there is no such package: %v", e.line, err)
		}
		// The pattern for the test, without that for what is below it.
		pattern, _, _ := strings.Cut(strings.Fields(e.line)[2], "/")
		test, found := regexp.MustCompile(whole(pattern)), false
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, declared := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(text), -1) {
				found = found || test.MatchString(declared[1])
			}
		}
		if !found {
			t.Errorf("%s: there is no such test", e.line)
		}
	}
}
