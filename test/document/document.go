// Package document puts what tests have measured into documents.
package document

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Publish puts a table in Markdown into the document at path, between the marks of a target
// of the Makefile, with where and how long it took. The marks are lines of their own:
//
//	<!-- TARGET: written by make TARGET -->
//	<!-- /TARGET -->
func Publish(path, target, table string, took time.Duration) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	heading := fmt.Sprintf("`make %s` on %s, %s, in %s.\n\n", target, time.Now().UTC().Format(time.DateOnly), Machine(), took.Round(time.Second))
	text, err = between(text, target, heading+table)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, text, 0o644)
}

// between replaces what is between the marks of a target.
func between(document []byte, target, table string) ([]byte, error) {
	begins, ends := fmt.Appendf(nil, "<!-- %[1]s: written by make %[1]s -->\n", target), fmt.Appendf(nil, "<!-- /%s -->\n", target)
	head, rest, begun := bytes.Cut(document, begins)
	_, tail, ended := bytes.Cut(rest, ends)
	if !begun || !ended {
		return nil, fmt.Errorf("the marks %q and %q are not there", begins, ends)
	}
	return slices.Concat(head, begins, []byte(table), ends, tail), nil
}

// Machine is where this runs.
func Machine() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err.Error()
	}
	release, _, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), "-")
	return fmt.Sprintf("Linux %s, %d processors", release, runtime.NumCPU())
}
