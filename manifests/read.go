package manifests

import (
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
)

// Objects are what files have in them.
type Objects struct {
	policy.Snapshot
	// Skipped is how many objects of which kinds were passed over.
	Skipped map[string]int

	// What follows is only there if it was read for questions.

	Services       []*corev1.Service
	EndpointSlices []*discoveryv1.EndpointSlice
	// Workloads are what makes pods, with TypeMeta and metadata.
	Workloads []*metav1.PartialObjectMetadata
	// StandIns names the workloads and pods whose addresses are placeholders: "Deployment shop/web".
	StandIns []string
	// Implied are the names of those Namespaces that no file has: something is in them, and their labels are
	// not known, but for the one with the name.
	Implied []string

	templates []podTemplate
	places    map[id]source
}

// source is where an object is written.
type source struct {
	file     string
	document *node
}

// ReadOptions say how files are read for questions.
type ReadOptions struct {
	// Recursive: also the folders in folders.
	Recursive bool
	// Stdin is what the path "-" reads.
	Stdin io.Reader
	// Strict: a kind that nobody reads is an error.
	Strict bool
	// Node is where pods run that no node is named for; empty: nowhere.
	Node string
}

// Read reads files for somebody who asks what policies would do, before anything runs. It reads workloads
// and Services too, and workloads stand for pods that are not there (standins.go). Of a folder it reads
// the files in it, as kubectl does. The same object in two files is an error. The error is as that of
// Load.
func Read(paths []string, o ReadOptions) (*Objects, error) {
	r := newReader()
	r.questions, r.strict = true, o.Strict
	for _, path := range paths {
		if path == "-" {
			data, err := io.ReadAll(io.LimitReader(o.Stdin, maxFile+1))
			if err == nil && len(data) > maxFile {
				err = errTooLarge
			}
			if err != nil {
				r.fail("standard input", err)
				continue
			}
			r.file("standard input", data)
			continue
		}
		t := walk(path, !o.Recursive, nil)
		r.found = append(r.found, t.errs...)
		for _, file := range t.files {
			data, err := read(file)
			if err != nil {
				r.fail(file, err)
				continue
			}
			r.file(file, data)
		}
	}
	out, err := r.objects()
	if err != nil {
		return nil, err
	}
	if Empty(out.Snapshot) && len(out.templates)+len(out.Services) == 0 {
		return nil, fmt.Errorf("there are no objects that podfence reads in %v", paths)
	}
	out.standIn(o.Node)
	return out, nil
}

// Selectors calls tell with what workloads select their pods by, of Deployments, StatefulSets and DaemonSets that say
// so.
func (o *Objects) Selectors(tell func(kind, namespace, name string, by *metav1.LabelSelector)) {
	for _, t := range o.templates {
		if t.selector != nil {
			tell(t.owner.Kind, t.owner.Namespace, t.owner.Name, t.selector)
		}
	}
}

// Place is where a field of a NetworkPolicy or a ClusterNetworkPolicy is written, such as
// "spec.ingress[0].from[1]"; where there is no such field, the nearest one around it.
func (o *Objects) Place(kind, namespace, name, field string) (file string, line int, known bool) {
	at, known := o.places[id{kind, namespace, name}]
	if !known {
		return "", 0, false
	}
	return at.file, at.document.lineOf(field), true
}
