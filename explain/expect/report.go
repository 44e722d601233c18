package expect

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"

	"github.com/podfence/podfence/explain"
)

// Failed is how many results are not as expected.
func Failed(results []Result) (n int) {
	for _, r := range results {
		if !r.Passed {
			n++
		}
	}
	return n
}

// Results are all results, as JSON has them.
type Results struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"` // PolicyTestResults
	// Failed is how many of the Results are not as expected.
	Failed  int      `json:"failed"`
	Results []Result `json:"results"`
}

// NewResults are these results.
func NewResults(results []Result) Results {
	return Results{explain.APIVersion, "PolicyTestResults", Failed(results), results}
}

// WriteText writes a line for each result, and below a failed one the first lines of the explanation.
func WriteText(w io.Writer, results []Result, style explain.Style) error {
	var b strings.Builder
	for _, r := range results {
		if r.Passed {
			fmt.Fprintf(&b, "%s    %s\n", style.Allowed("ok"), r.Name)
			continue
		}
		fmt.Fprintf(&b, "%s  %s\n      %s:%d: expected otherwise: %s\n", style.Denied("FAIL"), r.Name, r.File, r.Line, r.Why)
		for _, line := range explained(r, style) {
			fmt.Fprintf(&b, "      %s\n", line)
		}
	}
	fmt.Fprintf(&b, "%d of %d as expected\n", len(results)-Failed(results), len(results))
	_, err := io.WriteString(w, b.String())
	return err
}

// firstLines is how much of an explanation a failure shows.
const firstLines = 6

// explained are the first lines of a result's explanation.
func explained(r Result, style explain.Style) []string {
	if r.Explanation == nil {
		return nil
	}
	var b strings.Builder
	if err := r.Explanation.WriteText(&b, style); err != nil {
		return []string{err.Error()} // a Builder takes everything
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	return lines[:min(len(lines), firstLines)]
}

// The elements of JUnit's XML, as CI servers read it.
type (
	testSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Suites   []*testSuite `xml:"testsuite"`
	}
	testSuite struct {
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Cases    []testCase `xml:"testcase"`
	}
	testCase struct {
		Name    string   `xml:"name,attr"`
		Class   string   `xml:"classname,attr"`
		File    string   `xml:"file,attr"`
		Line    int      `xml:"line,attr"`
		Failure *failure `xml:"failure"`
	}
	failure struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes results as JUnit's XML: a suite for each document of tests.
func WriteJUnit(w io.Writer, results []Result) error {
	all := testSuites{Name: "podfence", Tests: len(results), Failures: Failed(results)}
	for _, r := range results {
		if n := len(all.Suites); n == 0 || all.Suites[n-1].Name != r.Suite {
			all.Suites = append(all.Suites, &testSuite{Name: r.Suite})
		}
		suite := all.Suites[len(all.Suites)-1]
		one := testCase{Name: r.Name, Class: r.Suite, File: r.File, Line: r.Line}
		if !r.Passed {
			suite.Failures++
			one.Failure = &failure{Message: r.Why, Type: "NotAsExpected", Text: strings.Join(explained(r, explain.Plain), "\n")}
		}
		suite.Tests++
		suite.Cases = append(suite.Cases, one)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	encoder := xml.NewEncoder(w)
	encoder.Indent("", "  ")
	if err := encoder.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}
