package controllers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/policy"
)

// Pods and policies are watched separately, and one watch may be behind the other: a policy that
// existed before a pod may arrive after it. So an ADD asks the API server which policies the pod's
// namespace has, and waits until they have been fed.

const (
	// listTimeout is how long the API server may take to list a namespace's policies.
	listTimeout = 5 * time.Second
	// listsAtOnce bounds how many namespaces are listed at the same time; more ADDs wait,
	// and those of one namespace share a list.
	listsAtOnce = 4
	// ListRate and ListBurst bound how often an agent lists, per second and at once.
	ListRate, ListBurst = 50, 100
	// listRetry is after how long the API server is asked again. A policy that it listed may be
	// gone since then without the watch ever having shown it.
	listRetry = time.Second
)

// policyVersions are the resourceVersions of the policies that the model has, by
// namespace and name.
type policyVersions map[string]map[string]string

// set notes what the model has of a policy now.
func (v policyVersions) set(np *networkingv1.NetworkPolicy) {
	if v[np.Namespace] == nil {
		v[np.Namespace] = map[string]string{}
	}
	v[np.Namespace][np.Name] = np.ResourceVersion
}

// delete notes that the model has a policy no more.
func (v policyVersions) delete(key policy.Key) {
	delete(v[key.Namespace], key.Name)
	if len(v[key.Namespace]) == 0 {
		delete(v, key.Namespace)
	}
}

// lacks says what of a list the model does not have yet. It is empty if the model has all of it, or
// newer versions.
func (v policyVersions) lacks(list listedPolicies) string {
	has := v[list.namespace]
	for name, version := range list.versions {
		have, is := has[name]
		switch {
		case !is:
			return fmt.Sprintf("NetworkPolicy %s/%s is there", list.namespace, name)
		case have != version && !later(have, version):
			return fmt.Sprintf("NetworkPolicy %s/%s has changed", list.namespace, name)
		}
	}
	for name, have := range has {
		if _, listed := list.versions[name]; !listed && !later(have, list.at) {
			return fmt.Sprintf("NetworkPolicy %s/%s is gone", list.namespace, name)
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

// listedPolicies are the policies of a namespace as the API server had them.
type listedPolicies struct {
	namespace string
	at        string            // the list's resourceVersion
	versions  map[string]string // by name
}

// policyLists lists the policies of namespaces. All that ask for a list before it begins share it.
type policyLists struct {
	// list asks the API server.
	list func(ctx context.Context, namespace string) (listedPolicies, error)
	// slots has an element for each list that is under way, and so bounds how many there are.
	slots chan struct{}

	mu   sync.Mutex
	next map[string]*sharedList // by namespace: the lists that have not begun
}

// sharedList is a list that several wait for, until done is closed.
type sharedList struct {
	done   chan struct{}
	listed listedPolicies
	err    error
}

// newPolicyLists returns policyLists that list by a reader, which must have no cache.
func newPolicyLists(reader client.Reader) *policyLists {
	return &policyLists{
		list: func(ctx context.Context, namespace string) (listedPolicies, error) {
			return listPolicies(ctx, reader, namespace)
		},
		slots: make(chan struct{}, listsAtOnce),
		next:  map[string]*sharedList{},
	}
}

// listPolicies lists names and versions. It leaves the resourceVersion open, so that the
// API server answers with what is stored when it is asked, not with what it had cached.
func listPolicies(ctx context.Context, reader client.Reader, namespace string) (listedPolicies, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	all := &metav1.PartialObjectMetadataList{}
	all.SetGroupVersionKind(networkingv1.SchemeGroupVersion.WithKind("NetworkPolicyList"))
	if err := reader.List(ctx, all, client.InNamespace(namespace)); err != nil {
		return listedPolicies{}, fmt.Errorf("asking the API server for the NetworkPolicies of namespace %s: %w", namespace, err)
	}
	listed := listedPolicies{namespace: namespace, at: all.ResourceVersion, versions: map[string]string{}}
	for _, np := range all.Items {
		listed.versions[np.Name] = np.ResourceVersion
	}
	return listed, nil
}

// get returns a list that has begun after the call.
func (l *policyLists) get(ctx context.Context, namespace string) (listedPolicies, error) {
	l.mu.Lock()
	shared := l.next[namespace]
	if shared == nil {
		shared = &sharedList{done: make(chan struct{})}
		l.next[namespace] = shared
		go l.run(namespace, shared)
	}
	l.mu.Unlock()
	select {
	case <-shared.done:
		return shared.listed, shared.err
	case <-ctx.Done():
		return listedPolicies{}, fmt.Errorf("the API server has not said in time which NetworkPolicies namespace %s has: %w", namespace, context.Cause(ctx))
	}
}

// run lists for all who have asked. It has no context of those who wait, so that none of them ends
// it for the others.
func (l *policyLists) run(namespace string, shared *sharedList) {
	l.slots <- struct{}{}
	defer func() { <-l.slots }()
	l.mu.Lock()
	delete(l.next, namespace) // whoever asks from now on may have a newer pod
	l.mu.Unlock()
	defer close(shared.done)
	shared.listed, shared.err = l.list(context.Background(), namespace)
}

// Covered waits until the policies have been fed that the API server has for a namespace at the
// time of the call. While the API server can't be asked, it goes on waiting: a pod is not
// connected without its policies.
func (s *Source) Covered(ctx context.Context, namespace string) error {
	for {
		list, err := s.lists.get(ctx, namespace)
		untilRetry, cancel := context.WithTimeout(ctx, listRetry)
		if err == nil {
			err = s.policies.await(untilRetry, list)
		} else {
			<-untilRetry.Done()
		}
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}

// fedPolicies are the versions of the policies that have been fed. Its methods may be called
// concurrently.
type fedPolicies struct {
	mu       sync.Mutex
	versions policyVersions
	// waiting has, by namespace, a channel for each who waits until another policy of it is fed.
	waiting map[string]map[chan struct{}]struct{}
}

func newFedPolicies() *fedPolicies {
	return &fedPolicies{versions: policyVersions{}, waiting: map[string]map[chan struct{}]struct{}{}}
}

// set notes that a policy has been fed.
func (f *fedPolicies) set(np *networkingv1.NetworkPolicy) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.versions.set(np)
	f.tell(np.Namespace)
}

// delete notes that the end of a policy has been fed.
func (f *fedPolicies) delete(key policy.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.versions.delete(key)
	f.tell(key.Namespace)
}

// tell tells those who wait for a namespace. The caller holds mu.
func (f *fedPolicies) tell(namespace string) {
	for changed := range f.waiting[namespace] {
		close(changed)
	}
	delete(f.waiting, namespace)
}

// await waits until all that was listed has been fed.
func (f *fedPolicies) await(ctx context.Context, list listedPolicies) error {
	for {
		lacks, changed := f.lacks(list)
		if lacks == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			f.leave(list.namespace, changed)
			return errors.New("the watch of NetworkPolicies is behind the API server: " + lacks)
		case <-changed:
		}
	}
}

// lacks says what of a list has not been fed, and returns a channel that is closed when this may have
// changed.
func (f *fedPolicies) lacks(list listedPolicies) (lacks string, changed chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if lacks = f.versions.lacks(list); lacks == "" {
		return "", nil
	}
	if f.waiting[list.namespace] == nil {
		f.waiting[list.namespace] = map[chan struct{}]struct{}{}
	}
	changed = make(chan struct{})
	f.waiting[list.namespace][changed] = struct{}{}
	return lacks, changed
}

// leave forgets a channel that nobody waits for any more.
func (f *fedPolicies) leave(namespace string, changed chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if delete(f.waiting[namespace], changed); len(f.waiting[namespace]) == 0 {
		delete(f.waiting, namespace)
	}
}
