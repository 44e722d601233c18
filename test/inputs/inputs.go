// Package inputs tells the go command what a test's result depends on besides the code
// that the test imports. The go command takes a result from its cache unless a file of the
// module has changed that the test has opened; of what other processes read, as the
// compiler or helm that the test runs, it knows nothing. So the test opens that too.
//
// Only what is opened while tests run counts: in a TestMain, before testing.M.Run, nobody
// is listening.
package inputs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Packages opens all that packages of this module are compiled from, theirs and those that
// they import. They are named as for `go list`.
func Packages(patterns ...string) error {
	const files = `{{if and .Module .Module.Main}}{{.Module.GoMod}}
{{.Dir}}{{$dir := .Dir}}{{range .EmbedFiles}}
{{$dir}}/{{.}}{{end}}
{{end}}`
	out, err := exec.Command("go", append([]string{"list", "-deps", "-f", files, "--"}, patterns...)...).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return fmt.Errorf("list what %v are compiled from: %w: %s", patterns, err, exit.Stderr)
	} else if err != nil {
		return fmt.Errorf("list what %v are compiled from: %w", patterns, err)
	}
	// A folder stands for the files in it: for their names, sizes and times.
	for path := range strings.FieldsFuncSeq(string(out), func(r rune) bool { return r == '\n' }) {
		if err := open(path); err != nil {
			return err
		}
	}
	return nil
}

// Trees opens folders and all those below.
func Trees(folders ...string) error {
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.IsDir() {
				return err
			}
			return open(path)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func open(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return file.Close()
}
