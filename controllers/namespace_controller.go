package controllers

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/podfence/podfence/policy"
)

// NamespaceReconciler feeds namespaces: their labels, for namespaceSelectors.
type NamespaceReconciler struct{ *Source }

// +kubebuilder:rbac:groups="",resources=namespaces,verbs=list;watch

// Reconcile implements reconcile.Reconciler.
func (r *NamespaceReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	return reconcile(ctx, r.Source, req, &corev1.Namespace{},
		func(ns *corev1.Namespace) policy.Change { return policy.ChangeOf(ns) },
		func() policy.Change { return policy.DeleteNamespace(req.Name) }, nil)
}

// SetupWithManager has the manager call Reconcile.
func (r *NamespaceReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).For(&corev1.Namespace{}).Named("namespace").Complete(r)
}
