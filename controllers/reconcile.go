package controllers

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/policy"
)

// reconcile is what the reconcilers have in common: the object as the cache has
// it goes into the model by set; if it is gone, remove takes it out. Cache and
// model are looked at in one step, so that the model never goes back in time.
func reconcile[T client.Object](ctx context.Context, e *Enforcer, reader client.Reader, req ctrl.Request, object T, set func(*policy.Model, T), remove func(*policy.Model)) (ctrl.Result, error) {
	var failed error
	e.Feed(func(m *policy.Model) {
		switch err := reader.Get(ctx, req.NamespacedName, object); {
		case apierrors.IsNotFound(err):
			remove(m)
		case err != nil:
			failed = fmt.Errorf("reading %T %s: %w", object, req.NamespacedName, err)
		default:
			set(m, object)
		}
	})
	return ctrl.Result{}, failed
}
