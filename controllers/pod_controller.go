package controllers

import (
	"context"
	"fmt"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/podfence/podfence/policy"
)

// PodReconciler feeds pods: this node's as subjects, all as peers.
type PodReconciler struct{ *Source }

// +kubebuilder:rbac:groups="",resources=pods,verbs=list;watch

// Reconcile implements reconcile.Reconciler.
func (r *PodReconciler) Reconcile(_ context.Context, req ctrl.Request) (ctrl.Result, error) {
	err := r.feed(func() ([]policy.Change, error) {
		switch pod, err := r.pods.pod(req.NamespacedName); {
		case err != nil:
			return nil, fmt.Errorf("reading pod %s: %w", req.NamespacedName, err)
		case pod == nil:
			r.podSizes.forget(req.NamespacedName)
			return []policy.Change{policy.DeletePod(req.NamespacedName)}, nil
		default:
			return []policy.Change{policy.SetPod(pod)}, nil
		}
	}, nil)
	return ctrl.Result{}, err
}

// SetupWithManager has the manager call Reconcile for what is new. The pods that exist at the start
// are not new: firstLoad feeds them.
func (r *PodReconciler) SetupWithManager(mgr ctrl.Manager) error {
	news := predicate.Funcs{CreateFunc: func(e event.CreateEvent) bool { return r.isNew(e.Object.(*cachedPod)) }}
	// A logger for each call would be most of what a call costs; errors name the pod.
	log := mgr.GetLogger().WithValues("controller", "pod")
	return ctrl.NewControllerManagedBy(mgr).For(&corev1.Pod{}, builder.WithPredicates(news)).Named("pod").
		WithLogConstructor(func(*ctrl.Request) logr.Logger { return log }).Complete(r)
}

// isNew reports whether a pod is news to the model.
func (r *PodReconciler) isNew(p *cachedPod) bool {
	return r.loading.Load() && !r.enforcer.Knows(p.change())
}
