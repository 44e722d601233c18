package manifests

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/policy"
)

// Load reads every .yaml, .yml and .json file of a folder and its subfolders,
// in name order. Hidden files and folders are left out, symbolic links are
// followed: ..data of a mounted ConfigMap is read through the links to it, not
// by itself. The path may also be one file, whatever its name.
//
// It reads what is enforced, and passes over other kinds, unless one resembles what is enforced.
//
// The error is an errors.Join of *Error, one for each finding; there are no
// Objects then, as part of the policies may well allow more than all of them.
func Load(path string) (*Objects, error) {
	// A mounted ConfigMap changes all its files at once, by one rename of
	// ..data. Files read before and after it do not belong together.
	for range attempts {
		before := mounted(path)
		objects, err := load(path)
		if mounted(path) == before {
			return objects, err
		}
	}
	return nil, &Error{File: path, Err: errors.New("changes while it is read, again and again")}
}

// attempts is how often Load reads a mount that changes while it is read. That is rare even once: the
// kubelet updates mounts about once a minute.
const attempts = 5

// mounted returns which version of a ConfigMap a folder has, or "".
func mounted(path string) string {
	version, err := os.Readlink(filepath.Join(path, "..data"))
	if err != nil { // no such mount
		return ""
	}
	return version
}

// Empty reports whether there is no object in a snapshot.
func Empty(s policy.Snapshot) bool {
	return len(s.Nodes)+len(s.Namespaces)+len(s.Pods)+len(s.Policies)+len(s.ClusterPolicies) == 0
}

func load(path string) (*Objects, error) {
	t := walk(path, false, nil)
	r := newReader()
	r.found = t.errs
	for _, file := range t.files {
		data, err := read(file)
		if err != nil {
			r.fail(file, err)
			continue
		}
		r.file(file, data)
	}
	return r.objects()
}

// Parse reads the bytes of one file; name is what errors call it.
func Parse(name string, data []byte) (policy.Snapshot, error) {
	r := newReader()
	if len(data) > maxFile {
		r.fail(name, errTooLarge)
	} else {
		r.file(name, data)
	}
	out, err := r.objects()
	if err != nil {
		return policy.Snapshot{}, err
	}
	return out.Snapshot, nil
}

// reader gathers what files say.
type reader struct {
	// questions: what is read is asked about, and not enforced, so that more kinds are read; strict: a kind
	// that is not read is a finding.
	questions, strict bool

	out     Objects
	checker checker
	places  map[id]place
	found   []*Error
}

type id struct{ kind, namespace, name string }

type place struct {
	file string
	line int
}

func newReader() *reader {
	return &reader{checker: newChecker(), places: map[id]place{}, out: Objects{Skipped: map[string]int{}, places: map[id]source{}}}
}

func (r *reader) fail(file string, err error) {
	t := listing{}
	t.fail(file, err)
	r.found = append(r.found, t.errs...)
}

// file reads a file part by part, until the first syntax error.
func (r *reader) file(file string, data []byte) {
	for p := range documentParts(data) {
		if err := r.part(file, p); err != nil {
			r.found = append(r.found, &Error{File: file, Line: err.line, Err: err})
			return
		}
	}
}

// part reads the documents of a part; a list item by item, if it can be read so.
func (r *reader) part(file string, p part) *syntaxError {
	if l, ok := splitItems(p); ok {
		before := r.mark()
		err := r.splitList(file, l)
		if err == nil || len(p.data) > maxTree {
			return err
		}
		r.reset(before)
	}
	docs, err := documents(p)
	for _, doc := range docs {
		err = cmp.Or(r.document(file, doc), err)
	}
	return err
}

// maxTree bounds what is read whole after it could not be read in parts, for its memory.
const maxTree = 64 << 20

// splitList reads a list whose items were taken out of it. If it returns an error, what was read of
// the list has to be forgotten, and the list has to be read whole.
func (r *reader) splitList(file string, l splitList) *syntaxError {
	docs, err := documents(l.emptied)
	if err != nil {
		return err
	}
	if len(docs) != 1 || docs[0].kind != object {
		return errNoParts
	}
	items := docs[0].get("items")
	if items == nil || items.kind != list || len(items.items) > 0 || items.line != l.line {
		return errNoParts
	}
	items.later = &l
	return r.document(file, docs[0])
}

// mark is how much a reader has read.
type mark struct {
	nodes, namespaces, pods, policies, clusterPolicies, services, slices, workloads, found int
	skipped                                                                                map[string]int
}

func (r *reader) mark() mark {
	return mark{len(r.out.Nodes), len(r.out.Namespaces), len(r.out.Pods), len(r.out.Policies), len(r.out.ClusterPolicies),
		len(r.out.Services), len(r.out.EndpointSlices), len(r.out.Workloads), len(r.found), maps.Clone(r.out.Skipped)}
}

// reset forgets what was read since.
func (r *reader) reset(m mark) {
	forget(r, "Node", &r.out.Nodes, m.nodes)
	forget(r, "Namespace", &r.out.Namespaces, m.namespaces)
	forget(r, "Pod", &r.out.Pods, m.pods)
	forget(r, "NetworkPolicy", &r.out.Policies, m.policies)
	forget(r, "ClusterNetworkPolicy", &r.out.ClusterPolicies, m.clusterPolicies)
	forget(r, "Service", &r.out.Services, m.services)
	forget(r, "EndpointSlice", &r.out.EndpointSlices, m.slices)
	for _, w := range r.out.Workloads[m.workloads:] {
		delete(r.places, id{w.Kind, w.Namespace, w.Name})
	}
	r.out.Workloads, r.out.templates = r.out.Workloads[:m.workloads], r.out.templates[:m.workloads]
	r.out.Skipped = m.skipped
	r.found = r.found[:m.found]
}

func forget[T metav1.Object](r *reader, kind string, all *[]T, from int) {
	for _, o := range (*all)[from:] {
		delete(r.places, id{kind, o.GetNamespace(), o.GetName()})
		delete(r.out.places, id{kind, o.GetNamespace(), o.GetName()})
	}
	*all = (*all)[:from]
}

// add takes an object into the snapshot, once.
func (r *reader) add(file string, n *node, kind string, obj metav1.Object) {
	if obj.GetName() == "" {
		return // a finding already
	}
	key := id{kind, obj.GetNamespace(), obj.GetName()}
	here := place{file, n.lineOf("metadata.name")}
	if first, duplicate := r.places[key]; duplicate {
		dup := field.Duplicate(field.NewPath("metadata", "name"), obj.GetName())
		dup.Detail = fmt.Sprintf("the same object is at %s:%d", first.file, first.line)
		r.found = append(r.found, &Error{File: file, Line: here.line, Object: describe(n, kind), Field: dup.Field, Err: dup})
		return
	}
	r.places[key] = here
	switch o := obj.(type) {
	case *corev1.Node:
		r.out.Nodes = append(r.out.Nodes, o)
	case *corev1.Namespace:
		r.out.Namespaces = append(r.out.Namespaces, o)
	case *corev1.Pod:
		r.out.Pods = append(r.out.Pods, o)
	case *networkingv1.NetworkPolicy:
		r.out.Policies = append(r.out.Policies, o)
	case *clusterv1beta1.ClusterNetworkPolicy:
		r.out.ClusterPolicies = append(r.out.ClusterPolicies, o)
	case *corev1.Service:
		r.out.Services = append(r.out.Services, o)
	case *discoveryv1.EndpointSlice:
		r.out.EndpointSlices = append(r.out.EndpointSlices, o)
	default:
		if t, is := templateOf(kind, obj); is {
			r.out.Workloads, r.out.templates = append(r.out.Workloads, t.owner), append(r.out.templates, t)
		}
	}
	if r.questions && (kind == "NetworkPolicy" || kind == "ClusterNetworkPolicy") {
		r.out.places[key] = source{file, n}
	}
}

// objects returns everything, sorted, or everything that is wrong.
func (r *reader) objects() (*Objects, error) {
	if len(r.found) > 0 {
		return nil, join(r.found)
	}
	for _, o := range r.out.Workloads {
		r.namespace(o.Namespace)
	}
	for _, o := range r.out.Pods {
		r.namespace(o.Namespace)
	}
	for _, o := range r.out.Policies {
		r.namespace(o.Namespace)
	}
	slices.SortFunc(r.out.Nodes, byName[*corev1.Node])
	slices.SortFunc(r.out.Namespaces, byName[*corev1.Namespace])
	slices.SortFunc(r.out.Pods, byName[*corev1.Pod])
	slices.SortFunc(r.out.Policies, byName[*networkingv1.NetworkPolicy])
	slices.SortFunc(r.out.ClusterPolicies, byName[*clusterv1beta1.ClusterNetworkPolicy])
	slices.SortFunc(r.out.Services, byName[*corev1.Service])
	return &r.out, nil
}

// namespace adds a namespace that something is in, where no manifest has it.
func (r *reader) namespace(name string) {
	key := id{kind: "Namespace", name: name}
	if _, have := r.places[key]; have {
		return
	}
	r.places[key] = place{}
	r.out.Namespaces = append(r.out.Namespaces, impliedNamespace(name))
	r.out.Implied = append(r.out.Implied, name)
}

func byName[T metav1.Object](a, b T) int {
	return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
}
