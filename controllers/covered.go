package controllers

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Pods, policies and Namespaces are watched separately, and one watch may be behind the other: a policy
// that existed before a pod may arrive after it. So an ADD asks the API server what it has that is
// about the pod, and waits until that has been fed: the policies of the pod's namespace, all
// ClusterNetworkPolicies, and, if there are any of those, the Namespace, by whose labels they choose.

const (
	// listTimeout is how long the API server may take for one list.
	listTimeout = 5 * time.Second
	// listsAtOnce bounds how many lists are under way at the same time; more ADDs wait, and those
	// that need the same list share one.
	listsAtOnce = 4
	// ListRate and ListBurst bound how often an agent lists, per second and at once. An ADD takes
	// up to three lists.
	ListRate, ListBurst = 150, 300
	// listRetry is after how long the API server is asked again. A policy that it listed may be
	// gone since then without the watch ever having shown it.
	listRetry = time.Second
)

// scope is what one list is about.
type scope struct {
	// kind is that of the listed objects.
	kind string
	// namespace is the one that the NetworkPolicies are in, or the name of the one Namespace that is
	// listed. ClusterNetworkPolicies have none.
	namespace string
}

// The kinds that are listed for an ADD.
const (
	networkPolicyKind        = "NetworkPolicy"
	clusterNetworkPolicyKind = "ClusterNetworkPolicy"
	namespaceKind            = "Namespace"
)

// clusterScope has all ClusterNetworkPolicies.
var clusterScope = scope{kind: clusterNetworkPolicyKind}

// policiesOf has the NetworkPolicies of a namespace.
func policiesOf(namespace string) scope { return scope{networkPolicyKind, namespace} }

// namespaceScope has one Namespace.
func namespaceScope(name string) scope { return scope{namespaceKind, name} }

func (s scope) String() string {
	switch s.kind {
	case networkPolicyKind:
		return "the NetworkPolicies of namespace " + s.namespace
	case clusterNetworkPolicyKind:
		return "the ClusterNetworkPolicies"
	}
	return s.kind + " " + s.namespace
}

// object says which object of the scope has a name.
func (s scope) object(name string) string {
	if s.kind == networkPolicyKind {
		return fmt.Sprintf("%s %s/%s", s.kind, s.namespace, name)
	}
	return s.kind + " " + name
}

// versions are the resourceVersions of the objects that the model has, by scope and name.
type versions map[scope]map[string]string

// set notes what the model has of an object now.
func (v versions) set(of scope, name, version string) {
	if v[of] == nil {
		v[of] = map[string]string{}
	}
	v[of][name] = version
}

// delete notes that the model has an object no more.
func (v versions) delete(of scope, name string) {
	delete(v[of], name)
	if len(v[of]) == 0 {
		delete(v, of)
	}
}

// lacks says what of a list the model does not have yet. It is empty if the model has all of it, or
// newer versions.
func (v versions) lacks(list listed) string {
	if list.noKind {
		return ""
	}
	has := v[list.scope]
	for name, version := range list.versions {
		have, is := has[name]
		switch {
		case !is:
			return list.object(name) + " is there"
		case have != version && !later(have, version):
			return list.object(name) + " has changed"
		}
	}
	for name, have := range has {
		if _, is := list.versions[name]; !is && !later(have, list.at) {
			return list.object(name) + " is gone"
		}
	}
	return ""
}

// later reports whether a resourceVersion is known to be later than another. Kubernetes says since
// 1.35 that they can be compared (KEP-5504), and they could be in all releases before. With a server
// where they cannot be compared, only the very version that was listed is good enough.
func later(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order > 0
}

// listed are the objects of a scope as the API server had them.
type listed struct {
	scope
	at       string            // the list's resourceVersion
	versions map[string]string // by name
	// noKind: the API server does not have the kind, so there is nothing to wait for. What was fed
	// of it is taken back by whoever watches it.
	noKind bool
}

// nothingOf is a list of a kind that the API server does not have.
func nothingOf(of scope) listed { return listed{scope: of, noKind: true} }

// lists lists what ADDs ask for. All that ask for a list before it begins share it.
type lists struct {
	// list asks the API server.
	list func(context.Context, scope) (listed, error)
	// slots has an element for each list that is under way, and so bounds how many there are.
	slots chan struct{}

	mu   sync.Mutex
	next map[scope]*sharedList // the lists that have not begun
}

// sharedList is a list that several wait for, until done is closed.
type sharedList struct {
	done   chan struct{}
	listed listed
	err    error
}

func newLists(list func(context.Context, scope) (listed, error)) *lists {
	return &lists{list: list, slots: make(chan struct{}, listsAtOnce), next: map[scope]*sharedList{}}
}

// list asks the API server what it has of a scope.
func (s *Source) list(ctx context.Context, of scope) (listed, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	switch of.kind {
	case networkPolicyKind:
		return listMetadata(ctx, s.direct, of, networkingv1.SchemeGroupVersion, client.InNamespace(of.namespace))
	case namespaceKind:
		return listMetadata(ctx, s.direct, of, corev1.SchemeGroupVersion, client.MatchingFields{metav1.ObjectNameField: of.namespace})
	}
	return s.cluster.list(ctx, s.direct)
}

// listMetadata lists names and versions by a reader, which must have no cache. It leaves the
// resourceVersion open, so that the API server answers with what is stored when it is asked, not with
// what it had cached.
func listMetadata(ctx context.Context, reader client.Reader, of scope, version schema.GroupVersion, o ...client.ListOption) (listed, error) {
	all := &metav1.PartialObjectMetadataList{}
	all.SetGroupVersionKind(version.WithKind(of.kind + "List"))
	if err := reader.List(ctx, all, o...); err != nil {
		return listed{}, fmt.Errorf("asking the API server for %s: %w", of, err)
	}
	l := listed{scope: of, at: all.ResourceVersion, versions: map[string]string{}}
	for _, object := range all.Items {
		l.versions[object.Name] = object.ResourceVersion
	}
	return l, nil
}

// get returns a list that has begun after the call.
func (l *lists) get(ctx context.Context, of scope) (listed, error) {
	l.mu.Lock()
	shared := l.next[of]
	if shared == nil {
		shared = &sharedList{done: make(chan struct{})}
		l.next[of] = shared
		go l.run(of, shared)
	}
	l.mu.Unlock()
	select {
	case <-shared.done:
		return shared.listed, shared.err
	case <-ctx.Done():
		return listed{}, fmt.Errorf("the API server has not said in time what it has of %s: %w", of, context.Cause(ctx))
	}
}

// run lists for all who have asked. It has no context of those who wait, so that none of them ends
// it for the others.
func (l *lists) run(of scope, shared *sharedList) {
	l.slots <- struct{}{}
	defer func() { <-l.slots }()
	l.mu.Lock()
	delete(l.next, of) // whoever asks from now on may have a newer pod
	l.mu.Unlock()
	defer close(shared.done)
	shared.listed, shared.err = l.list(context.Background(), of)
}

// Covered waits until all has been fed that the API server has at the time of the call and that says
// which policies a pod of the namespace has. While the API server can't be asked, it goes on waiting:
// a pod is not connected without its policies.
func (s *Source) Covered(ctx context.Context, namespace string) error {
	if _, err := s.covered(ctx, policiesOf(namespace)); err != nil {
		return err
	}
	all, err := s.covered(ctx, clusterScope)
	if err != nil || len(all.versions) == 0 {
		return err
	}
	_, err = s.covered(ctx, namespaceScope(namespace))
	return err
}

// covered waits until all of a scope has been fed that the API server has at the time of the call,
// and returns what that was.
func (s *Source) covered(ctx context.Context, of scope) (listed, error) {
	for {
		list, err := s.lists.get(ctx, of)
		untilRetry, cancel := context.WithTimeout(ctx, listRetry)
		if err == nil {
			err = s.fed.await(untilRetry, list)
		} else {
			<-untilRetry.Done()
		}
		cancel()
		if err == nil || ctx.Err() != nil {
			return list, err
		}
	}
}

// fedObjects are the versions of the objects that have been fed. Its methods may be called
// concurrently.
type fedObjects struct {
	mu       sync.Mutex
	versions versions
	// waiting has, by scope, a channel for each who waits until another object of it is fed.
	waiting map[scope]map[chan struct{}]struct{}
}

func newFedObjects() *fedObjects {
	return &fedObjects{versions: versions{}, waiting: map[scope]map[chan struct{}]struct{}{}}
}

// set notes that an object of a scope has been fed.
func (f *fedObjects) set(of scope, object metav1.Object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.versions.set(of, object.GetName(), object.GetResourceVersion())
	f.tell(of)
}

// delete notes that the end of an object has been fed.
func (f *fedObjects) delete(of scope, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.versions.delete(of, name)
	f.tell(of)
}

// tell tells those who wait for a scope. The caller holds mu.
func (f *fedObjects) tell(of scope) {
	for changed := range f.waiting[of] {
		close(changed)
	}
	delete(f.waiting, of)
}

// await waits until all that was listed has been fed.
func (f *fedObjects) await(ctx context.Context, list listed) error {
	for {
		lacks, changed := f.lacks(list)
		if lacks == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			f.leave(list.scope, changed)
			return fmt.Errorf("the watch of %s is behind the API server: %s", list.scope, lacks)
		case <-changed:
		}
	}
}

// lacks says what of a list has not been fed, and returns a channel that is closed when this may have
// changed.
func (f *fedObjects) lacks(list listed) (lacks string, changed chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if lacks = f.versions.lacks(list); lacks == "" {
		return "", nil
	}
	if f.waiting[list.scope] == nil {
		f.waiting[list.scope] = map[chan struct{}]struct{}{}
	}
	changed = make(chan struct{})
	f.waiting[list.scope][changed] = struct{}{}
	return lacks, changed
}

// leave forgets a channel that nobody waits for any more.
func (f *fedObjects) leave(of scope, changed chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if delete(f.waiting[of], changed); len(f.waiting[of]) == 0 {
		delete(f.waiting, of)
	}
}
