package commands

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	selectors := map[explain.Object]*metav1.LabelSelector{}
	read.Selectors(func(kind, namespace, name string, by *metav1.LabelSelector) {
		selectors[explain.Object{Kind: kind, Namespace: namespace, Name: name}] = by
	})
	return &objects{
		Cluster: &explain.Cluster{Snapshot: read.Snapshot, Services: read.Services, EndpointSlices: read.EndpointSlices, Workloads: read.Workloads, Selectors: selectors},
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
