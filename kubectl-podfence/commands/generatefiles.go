package commands

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/podfence/podfence/explain/generate"
)

// writeStream writes policies as one YAML stream.
func writeStream(w io.Writer, policies []generate.Policy) error {
	for i := range policies {
		if _, err := io.WriteString(w, "---\n"); err != nil {
			return fmt.Errorf("writing policies: %w", err)
		}
		if err := policies[i].WriteYAML(w); err != nil {
			return err
		}
	}
	return nil
}

// writeFolder writes each policy as a file of a folder, whole or not at all, and returns the files of generated
// policies that are there besides.
func writeFolder(folder string, policies []generate.Policy) (left []string, err error) {
	written := map[string]bool{}
	for i := range policies {
		p := &policies[i]
		var text bytes.Buffer
		if err := p.WriteYAML(&text); err != nil {
			return nil, err
		}
		name := filepath.Join(folder, p.Namespace+"_"+p.Name+".yaml") // neither has "_" in it
		if err := replaceFile(name, text.Bytes()); err != nil {
			return nil, fmt.Errorf("writing NetworkPolicy %s/%s: %w", p.Namespace, p.Name, err)
		}
		written[name] = true
	}
	names, err := filepath.Glob(filepath.Join(folder, "*_*.yaml"))
	if err != nil {
		return nil, fmt.Errorf("looking for policies of earlier calls: %w", err)
	}
	slices.Sort(names)
	for _, name := range names {
		if written[name] {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return left, fmt.Errorf("looking for policies of earlier calls: %w", err)
		}
		if bytes.Contains(text, []byte(generate.GeneratedAnnotation)) {
			left = append(left, name)
		}
	}
	return left, nil
}

// replaceFile writes a file that is whole whenever somebody reads it.
func replaceFile(name string, text []byte) error {
	file, err := os.CreateTemp(filepath.Dir(name), ".generate-*")
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	err = errors.Join(err, file.Chmod(0o644), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}
