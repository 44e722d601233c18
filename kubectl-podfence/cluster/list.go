package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/pager"
)

// pageSize is how many objects are asked for at once, as kubectl does.
const pageSize = 500

// page asks for a page of the objects of a namespace; "": of all.
type page func(ctx context.Context, namespace string, o metav1.ListOptions) (runtime.Object, error)

// listed lists a kind in a namespace, page by page, and makes of each object what take returns.
func listed[T any](ctx context.Context, namespace string, ask page, take func(runtime.Object) (T, error)) (all []T, err error) {
	p := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return ask(ctx, namespace, o) })
	p.PageSize = pageSize
	err = p.EachListItemWithAlloc(ctx, metav1.ListOptions{}, func(o runtime.Object) error {
		one, err := take(o)
		all = append(all, one)
		return err
	})
	return all, err
}

// scoped lists a kind in all namespaces or, if the user may not, in those that are asked about. whole says
// whether it was in all.
func scoped[T any](ctx context.Context, namespaces []string, resource string, ask page, take func(runtime.Object) (T, error)) (all []T, whole bool, err error) {
	all, err = listed(ctx, "", ask, take)
	if !apierrors.IsForbidden(err) || len(namespaces) == 0 {
		return all, true, refused(resource, err)
	}
	for _, namespace := range namespaces {
		some, err := listed(ctx, namespace, ask, take)
		if err != nil {
			return nil, false, refused(resource, err)
		}
		all = append(all, some...)
	}
	return all, false, nil
}

// slim takes an object as it is, without what nobody here reads: who has managed which of its fields,
// which may be half of it.
func slim[T metav1.Object](o runtime.Object) (T, error) {
	one, is := o.(T)
	if !is {
		var want T
		return want, fmt.Errorf("the API server has sent a %T among objects that are %T", o, want)
	}
	one.SetManagedFields(nil)
	return one, nil
}

// refused says of an error what was read, and what to do if the user may not.
func refused(resource string, err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsForbidden(err):
		return fmt.Errorf("there is no answer without %s, which you may not list (docs/KUBECTL.md has a ClusterRole that lets you): %w", resource, err)
	}
	return fmt.Errorf("listing %s: %w", resource, err)
}

// forgiven makes a note of an error that says that the user may not list a resource, and of what answers
// then leave out.
func forgiven(resource, without string, err error) (missing string, _ error) {
	if apierrors.IsForbidden(err) {
		return fmt.Sprintf("You may not list %s: %s", resource, without), nil
	}
	return "", refused(resource, err)
}

// isMissing reports whether an error says that the API server does not have a resource.
func isMissing(err error) bool { return apierrors.IsNotFound(err) || meta.IsNoMatchError(err) }

func spaces(names []string) string {
	if len(names) == 1 {
		return "namespace " + names[0]
	}
	return "namespaces " + strings.Join(names, ", ")
}

// lists are lists that are made at once. Its zero value has none; it is used by one goroutine.
type lists struct {
	group   errgroup.Group
	missing []*string
	errs    []*error
}

// add begins a list, which returns what the user may not read.
func (l *lists) add(list func() (missing string, err error)) {
	missing, failed := new(string), new(error)
	l.missing, l.errs = append(l.missing, missing), append(l.errs, failed)
	l.group.Go(func() error {
		*missing, *failed = list()
		return nil // the others go on: one answer tells all that is missing
	})
}

// wait returns what all lists have returned, in the order in which they were begun.
func (l *lists) wait() (missing []string, err error) {
	err = l.group.Wait()
	for i := range l.missing {
		if *l.missing[i] != "" {
			missing = append(missing, *l.missing[i])
		}
		err = errors.Join(err, *l.errs[i])
	}
	return missing, err
}
