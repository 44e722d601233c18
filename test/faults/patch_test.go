package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// fault is a patch.
type fault struct {
	name, suite, kind string
	text              string // what is wrong, in a sentence
	hunks             []hunk
}

// hunk is a place where a patch changes a file.
type hunk struct{ file, before, after string }

// kinds are what a patch may be.
var kinds = []string{"fault", "rules", "state"}

// readFaults reads the patches, in order of their names.
func readFaults() (all []fault, err error) {
	paths, err := filepath.Glob("testdata/*.patch")
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		f, err := parse(strings.TrimSuffix(filepath.Base(path), ".patch"), string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, f)
	}
	return all, nil
}

// parse reads a patch.
func parse(name, text string) (fault, error) {
	head, diff, is := strings.Cut(text, "\n--- a/")
	if !is {
		return fault{}, errors.New("there is no diff in it")
	}
	f := fault{name: name}
	for _, line := range strings.Split(head, "\n") {
		switch key, value, _ := strings.Cut(line, ": "); {
		case key == "Suite":
			f.suite = value
		case key == "Kind":
			f.kind = value
		case line != "" && !strings.HasPrefix(line, "diff ") && !strings.HasPrefix(line, "index "):
			f.text = strings.TrimSpace(f.text + " " + line)
		}
	}
	f.hunks = hunksOf("--- a/" + diff)
	if _, is := suites[f.suite]; !is {
		return f, fmt.Errorf("suite %q is none", f.suite)
	}
	if !slices.Contains(kinds, f.kind) || f.text == "" || len(f.hunks) == 0 {
		return f, fmt.Errorf("kind %q, %d hunks: it must have a kind (%s), a sentence and a diff", f.kind, len(f.hunks), strings.Join(kinds, ", "))
	}
	return f, nil
}

// hunksOf reads a unified diff.
func hunksOf(diff string) (hunks []hunk) {
	file := ""
	for line := range strings.Lines(diff) {
		switch {
		case strings.HasPrefix(line, "--- a/"):
		case strings.HasPrefix(line, "diff "), strings.HasPrefix(line, "index "):
			file = ""
		case strings.HasPrefix(line, "+++ b/"):
			file = strings.TrimSpace(strings.TrimPrefix(line, "+++ b/"))
		case strings.HasPrefix(line, "@@"):
			hunks = append(hunks, hunk{file: file})
		case file != "" && len(hunks) > 0:
			h := &hunks[len(hunks)-1]
			switch line[0] {
			case '-':
				h.before += line[1:]
			case '+':
				h.after += line[1:]
			case ' ':
				h.before, h.after = h.before+line[1:], h.after+line[1:]
			default: // an empty line that lost its blank
				h.before, h.after = h.before+line, h.after+line
			}
		}
	}
	return hunks
}

// patched are the files that a fault changes, as it leaves them. root is the module's.
func (f fault) patched(root string) (map[string]string, error) {
	files := map[string]string{}
	for _, h := range f.hunks {
		text, is := files[h.file]
		if !is {
			b, err := os.ReadFile(filepath.Join(root, h.file))
			if err != nil {
				return nil, err
			}
			text = string(b)
		}
		if n := strings.Count(text, h.before); n != 1 {
			return nil, fmt.Errorf("%s has this %d times, not once:\n%s", h.file, n, h.before)
		}
		files[h.file] = strings.Replace(text, h.before, h.after, 1)
	}
	return files, nil
}

// overlay writes into a folder what -overlay reads, and returns its path.
func (f fault) overlay(root, dir string) (string, error) {
	files, err := f.patched(root)
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for file, text := range files {
		path := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, file)] = path
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, b, 0o600)
}
