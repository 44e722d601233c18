package commands

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/kubectl-podfence/cluster"
)

// source is where a command has its objects from: a cluster, or files.
type source struct {
	frame     *frame
	files     []string
	recursive bool
	strict    bool
}

// newSource is a source of files and folders or, without any, of the cluster.
func newSource(f *frame, files []string, recursive bool) *source {
	return &source{frame: f, files: files, recursive: recursive}
}

// objects are what a source has.
type objects struct {
	*explain.Cluster
	// place is where an object's field is written, by the object's kind, namespace and name and the field's
	// path; nil: that is not known of any, as of a cluster's.
	place func(kind, namespace, name, path string) *explain.Source
	// notes say what the source does not have, and what answers then leave out.
	notes []explain.Note
	// implied are the names of Namespaces of which files have only what is in them, and not their labels.
	implied []string
}

// sourceFlags adds the flags of a source to a command.
func (f *frame) sourceFlags(cmd *cobra.Command) *source {
	s := &source{frame: f}
	flags := cmd.Flags()
	flags.StringSliceVarP(&s.files, "filename", "f", nil, "read objects from this file or folder, or - for standard input, instead of a cluster (repeatable)")
	flags.BoolVarP(&s.recursive, "recursive", "R", false, "with --filename: read folders within folders as well")
	flags.BoolVar(&s.strict, "strict", false, "with --filename: a kind that the plugin does not read is an error")
	return s
}

// isFiles reports whether files are asked instead of a cluster.
func (s *source) isFiles() bool { return len(s.files) > 0 }

// text names the files.
func (s *source) text() string { return strings.Join(s.files, ", ") }

// has reports whether a path is among the files.
func (s *source) has(path string) bool { return slices.Contains(s.files, path) }

// of is a source of other files, which are read in the same way, and cluster is the cluster instead of them.
func (s *source) of(files []string) *source {
	return &source{frame: s.frame, files: files, recursive: s.recursive, strict: s.strict}
}

func (s *source) cluster() *source { return &source{frame: s.frame} }

// read reads all objects. Answers will be about the namespaces that are given: of a cluster where the user
// may not read all namespaces, it reads those.
func (s *source) read(ctx context.Context, namespaces ...string) (*objects, error) {
	switch {
	case s.isFiles():
		return s.readFiles()
	case s.recursive:
		return nil, errors.New("--recursive is about folders: give them by --filename")
	case s.strict:
		return nil, errors.New("--strict is about files: give them by --filename")
	}
	config, err := s.frame.rest()
	if err != nil {
		return nil, err
	}
	read, err := cluster.Read(ctx, config, namespaces)
	if err != nil {
		return nil, err
	}
	o := &objects{Cluster: read.Cluster}
	for _, missing := range read.Missing {
		o.notes = append(o.notes, explain.Note{Reason: "NotListed", Message: missing})
	}
	return o, nil
}

// has reports whether there is a namespace, or a Service that is in it; always if none is named. What else
// is in a namespace, files have with it.
func (o *objects) has(namespace string) bool {
	return namespace == "" || slices.ContainsFunc(o.Namespaces, func(ns *corev1.Namespace) bool { return ns.Name == namespace }) ||
		slices.ContainsFunc(o.Services, func(s *corev1.Service) bool { return s.Namespace == namespace })
}

// complete adds to an explanation what its source knows: where rules are written, and what is missing.
func (o *objects) complete(e *explain.Explanation) {
	e.Notes = append(e.Notes, o.notes...)
	o.addPlaces(e.Rules())
}

// addPlaces adds to rules where they are written, as far as the source knows.
func (o *objects) addPlaces(rules []*explain.Rule) {
	if o.place == nil {
		return
	}
	for _, rule := range rules {
		rule.Source = o.place(rule.Policy.Kind, rule.Policy.Namespace, rule.Policy.Name, rule.Path)
	}
}
