package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

const module = "github.com/podfence/podfence"

// event is what test2json prints (`go doc test2json`), of a package or of one of its tests.
type event struct {
	Action, Package, ImportPath, Test, Output, FailedBuild string
	Elapsed                                                float64 // seconds
}

// log is what has become of the packages until now.
type log struct {
	out      io.Writer
	expected []*expectation
	packages map[string]*results
	// builds are what the compiler has said, by import path.
	builds map[string]*strings.Builder
	bad    []string
}

// results are those of one package.
type results struct {
	passed, failed, skipped int
	ended                   bool
	seconds                 float64
	// printed is what each test that has not ended has printed, and "" the package.
	printed map[string]*strings.Builder
	skips   []string
}

func newLog(out io.Writer, expected []*expectation) *log {
	return &log{out: out, expected: expected, packages: map[string]*results{}, builds: map[string]*strings.Builder{}}
}

// read reads all events. What is none, as the go command's own errors, is passed on.
func (l *log) read(in io.Reader) error {
	r := bufio.NewReader(in)
	for {
		line, err := r.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if bytes.HasPrefix(line, []byte("{")) && json.Unmarshal(line, &e) == nil {
				l.take(e)
			} else {
				fmt.Fprintf(l.out, "%s", line)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (l *log) take(e event) {
	if e.ImportPath != "" {
		if l.builds[e.ImportPath] == nil {
			l.builds[e.ImportPath] = &strings.Builder{}
		}
		l.builds[e.ImportPath].WriteString(e.Output)
		return
	}
	name := cmp.Or(strings.TrimPrefix(strings.TrimPrefix(e.Package, module), "/"), ".")
	p := l.packages[name]
	if p == nil {
		p = &results{printed: map[string]*strings.Builder{}}
		l.packages[name] = p
	}
	switch {
	case e.Action == "output":
		e.Output = colours.ReplaceAllString(e.Output, "")
		p.print(e)
	case e.Test == "" && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip"):
		l.endPackage(name, p, e)
	case e.Action == "pass":
		p.passed++
		for _, line := range leftOut.FindAllString(p.take(e.Test), -1) {
			l.bad = append(l.bad, fmt.Sprintf("%s %s: specs were left out: %s", name, e.Test, line))
		}
	case e.Action == "fail":
		p.failed++
		fmt.Fprintf(l.out, "%s: %s\n%s", name, e.Test, p.take(e.Test))
	case e.Action == "skip":
		p.skipped++
		l.skip(name, p, e.Test, reasonOf(p.take(e.Test)))
	}
}

// colours are what ginkgo wraps words in.
var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// frame are the lines by which the testing package says whose turn it is.
var frame = regexp.MustCompile(`^=== (RUN|PAUSE|CONT|NAME) `)

func (p *results) print(e event) {
	if frame.MatchString(e.Output) {
		return
	}
	if p.printed[e.Test] == nil {
		p.printed[e.Test] = &strings.Builder{}
	}
	p.printed[e.Test].WriteString(e.Output)
}

// take returns what a test has printed, for the last time.
func (p *results) take(test string) string {
	defer delete(p.printed, test)
	if p.printed[test] == nil {
		return ""
	}
	return p.printed[test].String()
}

// said is a line of a test's: where it was printed, and what.
var said = regexp.MustCompile(`(?m)^ +[^ :]+\.go:\d+: (.*)$`)

// reasonOf is what a test has said last before it was skipped.
func reasonOf(printed string) string {
	all := said.FindAllStringSubmatch(printed, -1)
	if len(all) == 0 {
		return ""
	}
	return strings.TrimPrefix(all[len(all)-1][1], "skipped: ")
}

func (l *log) skip(name string, p *results, test, reason string) {
	line := fmt.Sprintf("%s %s: %s", name, test, cmp.Or(reason, "no reason"))
	if expects(l.expected, name, test, reason) {
		p.skips = append(p.skips, "skipped: "+line)
		return
	}
	l.bad = append(l.bad, "skipped, unexpectedly: "+line)
}

// leftOut is how ginkgo, which has no test for each spec, says that some were not run.
var leftOut = regexp.MustCompile(`(?m)^.*\d Passed \|.* [1-9]\d* (Pending|Skipped).*$`)

func (l *log) endPackage(name string, p *results, e event) {
	p.ended, p.seconds = true, e.Elapsed
	switch {
	case e.Action == "skip": // it has no tests
		delete(l.packages, name)
		return
	case e.Action == "fail":
		l.failPackage(name, p, e)
	case p.passed == 0:
		l.bad = append(l.bad, name+": no test has passed")
	}
	fmt.Fprintf(l.out, "%-4s %-24s %4d passed %3d failed %3d skipped %7.1f s\n",
		map[string]string{"pass": "ok", "fail": "FAIL"}[e.Action], name, p.passed, p.failed, p.skipped, p.seconds)
	clear(p.printed)
}

// failPackage prints what belongs to no test that has ended: a panic, a timeout, a build
// that failed.
func (l *log) failPackage(name string, p *results, e event) {
	l.bad = append(l.bad, name+" has failed")
	if build := l.builds[e.FailedBuild]; build != nil {
		fmt.Fprint(l.out, build)
	}
	for _, test := range slices.Sorted(maps.Keys(p.printed)) {
		if test != "" {
			fmt.Fprintf(l.out, "%s: %s has not ended\n", name, test)
		}
		fmt.Fprint(l.out, p.take(test))
	}
}

// end prints what there is to say of all packages, and returns an error if they do not
// count as tested.
func (l *log) end() error {
	names := slices.SortedFunc(maps.Keys(l.packages), func(a, b string) int {
		return cmp.Or(-cmp.Compare(l.packages[a].seconds, l.packages[b].seconds), cmp.Compare(a, b))
	})
	fmt.Fprintln(l.out, "\nSeconds per package, the slowest first:")
	for _, name := range names {
		fmt.Fprintf(l.out, "%8.1f %s\n", l.packages[name].seconds, name)
		if !l.packages[name].ended {
			l.bad = append(l.bad, name+" has not ended")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.packages)) {
		for _, skip := range l.packages[name].skips {
			fmt.Fprintln(l.out, skip)
		}
	}
	for _, e := range l.expected {
		if p := l.packages[e.pkg]; p != nil && !e.used {
			fmt.Fprintln(l.out, "not skipped, and skips.txt expects it:", e.line)
		}
	}
	for _, bad := range l.bad {
		fmt.Fprintln(l.out, bad)
	}
	switch {
	case len(names) == 0:
		return errors.New("no package was tested")
	case len(l.bad) > 0:
		return fmt.Errorf("%d things are wrong, see above", len(l.bad))
	}
	return nil
}
