// Command results makes a log of what `go test -json` prints:
//
//	go test -json ./... | results WHERE
//
// It prints each package as it ends, what a failed test has printed as soon as it has
// failed, and in the end how long each package took, the slowest first, and each test
// that was skipped, with its reason. It fails if a test failed, if a package has tests
// and none of them passed, and if a test was skipped that skips.txt does not expect to be
// skipped there. What skips.txt expects and was not skipped is printed: it may be struck.
//
// WHERE is the target of the Makefile; the kernel's release, which skips.txt looks at
// too, is this machine's or that in the variable RELEASE.
package main

import (
	_ "embed"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

//go:embed skips.txt
var skips string

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "results:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: results WHERE")
	}
	expected, err := parse(skips)
	if err != nil {
		return err
	}
	l := newLog(out, at(expected, args[0]+" "+release()))
	if err := l.read(in); err != nil {
		return err
	}
	return l.end()
}

// release is that of the kernel that the tests ran on.
func release() string {
	if given := os.Getenv("RELEASE"); given != "" {
		return given
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}
