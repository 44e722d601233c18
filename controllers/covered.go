package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/policy"
)

// Pods and policies are watched apart from each other, and the one watch may be behind
// the other: a policy that was there before its pod may come after it. So an ADD asks the
// API server which policies the pod's namespace has, and waits until the model has them.

const (
	// listTimeout is how long the API server may take to list a namespace's policies.
	listTimeout = 5 * time.Second
	// listsAtOnce bounds how many namespaces are listed at the same time; more ADDs wait,
	// and those of one namespace share a list.
	listsAtOnce = 4
	// listRate and listBurst bound how often an agent lists, per second and at once.
	listRate, listBurst = 50, 100
	// listAgain is after how long the API server is asked again. What it listed may be
	// gone since, without the watch ever having shown it.
	listAgain = time.Second
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

// lacks says what of a list the model does not have yet; empty: it has all of it, or
// what came later.
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

// later reports whether a resourceVersion is known to be later than another. They can be
// compared since Kubernetes 1.35 says so (KEP-5504), and could in all releases before.
// From a server where they can't, only the very version is good enough.
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

// policyLists lists the policies of namespaces, and shares a list among all that ask for
// it before it begins.
type policyLists struct {
	// list asks the API server.
	list func(ctx context.Context, namespace string) (listedPolicies, error)
	// begun bounds how many are under way.
	begun chan struct{}

	mu   sync.Mutex
	next map[string]*sharedList // by namespace: those that have not begun
}

// sharedList is a list that several wait for, until done is closed.
type sharedList struct {
	done   chan struct{}
	listed listedPolicies
	err    error
}

// newPolicyLists returns what lists by a reader that has no cache.
func newPolicyLists(reader client.Reader) *policyLists {
	return &policyLists{
		list: func(ctx context.Context, namespace string) (listedPolicies, error) {
			return listPolicies(ctx, reader, namespace)
		},
		begun: make(chan struct{}, listsAtOnce),
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
	one := l.next[namespace]
	if one == nil {
		one = &sharedList{done: make(chan struct{})}
		l.next[namespace] = one
		go l.run(namespace, one)
	}
	l.mu.Unlock()
	select {
	case <-one.done:
		return one.listed, one.err
	case <-ctx.Done():
		return listedPolicies{}, fmt.Errorf("the API server has not said in time which NetworkPolicies namespace %s has: %w", namespace, context.Cause(ctx))
	}
}

// run lists for all who have asked. It is nobody's context that ends it: others wait too.
func (l *policyLists) run(namespace string, one *sharedList) {
	l.begun <- struct{}{}
	defer func() { <-l.begun }()
	l.mu.Lock()
	delete(l.next, namespace) // who asks from now on may have a newer pod
	l.mu.Unlock()
	defer close(one.done)
	one.listed, one.err = l.list(context.Background(), namespace)
}

// covered waits until the model has the policies that the API server has for a pod's
// namespace at the time of the call. While the API server can't be asked, it is not: a pod
// is not connected without its policies. For a pod that was covered before it need not be:
// the model never goes back, and nobody waits for what came after the pod.
func (a *Attachments) covered(ctx context.Context, pod policy.Key, uid types.UID) error {
	if a.policies == nil || a.wasCovered(pod, uid) {
		return nil
	}
	for {
		list, err := a.policies.get(ctx, pod.Namespace)
		again, cancel := context.WithTimeout(ctx, listAgain)
		if err == nil {
			err = a.enforcer.covers(again, list)
		} else {
			<-again.Done()
		}
		cancel()
		switch {
		case err == nil:
			a.noteCovered(pod, uid)
			return nil
		case ctx.Err() != nil:
			return err
		}
	}
}

func (a *Attachments) wasCovered(pod policy.Key, uid types.UID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.coveredPods[pod] == uid
}

// noteCovered notes that the model covers a pod, and forgets those that are gone.
func (a *Attachments) noteCovered(pod policy.Key, uid types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.coveredPods[pod] = uid
	a.enforcer.mu.Lock()
	defer a.enforcer.mu.Unlock()
	maps.DeleteFunc(a.coveredPods, func(pod policy.Key, uid types.UID) bool {
		_, known := a.enforcer.model.Attached(policy.Attachment{Pod: pod, UID: uid})
		return !known
	})
}

// covers waits until the model has what was listed.
func (e *Enforcer) covers(ctx context.Context, list listedPolicies) error {
	var lacks string
	err := e.await(ctx, func(*policy.Model) bool {
		lacks = e.policies.lacks(list)
		return lacks == ""
	})
	if err != nil {
		return errors.New("the watch of NetworkPolicies is behind the API server: " + lacks)
	}
	return nil
}
