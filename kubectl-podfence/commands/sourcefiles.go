package commands

import (
	"fmt"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/manifests"
)

// readFiles reads the objects of --filename, and says on ErrOut what was passed over.
func (s *source) readFiles() (*objects, error) {
	read, err := manifests.Read(s.files, manifests.ReadOptions{Recursive: s.recursive, Stdin: s.frame.In, Strict: s.strict})
	if err != nil {
		return nil, err
	}
	if skipped := read.SkippedText(); skipped != "" {
		fmt.Fprintln(s.frame.ErrOut, "kubectl podfence: passed over", skipped)
	}
	return &objects{
		Cluster: &explain.Cluster{Snapshot: read.Snapshot, Services: read.Services, EndpointSlices: read.EndpointSlices, Workloads: read.Workloads},
		implied: read.Implied,
		place: func(kind, namespace, name, path string) *explain.Source {
			file, line, known := read.Place(kind, namespace, name, path)
			if !known {
				return nil
			}
			return &explain.Source{File: file, Line: line}
		},
	}, nil
}
