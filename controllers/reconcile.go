package controllers

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/policy"
)

// reconcile is what the reconcilers have in common: the object as the cache has it is fed as the
// change that set makes of it; if it is gone, as that of gone. Both are called under e.mu.
func reconcile[T client.Object](ctx context.Context, e *Enforcer, reader client.Reader, req ctrl.Request, object T, set func(T) policy.Change, gone func() policy.Change) (ctrl.Result, error) {
	err := e.feed(func() ([]policy.Change, error) {
		switch err := reader.Get(ctx, req.NamespacedName, object); {
		case apierrors.IsNotFound(err):
			return []policy.Change{gone()}, nil
		case err != nil:
			return nil, fmt.Errorf("reading %T %s: %w", object, req.NamespacedName, err)
		}
		return []policy.Change{set(object)}, nil
	})
	return ctrl.Result{}, err
}
