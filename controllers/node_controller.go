package controllers

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/podfence/podfence/policy"
)

// NodeReconciler feeds nodes: their pod ranges and addresses.
type NodeReconciler struct{ *Source }

// +kubebuilder:rbac:groups="",resources=nodes,verbs=list;watch

// Reconcile implements reconcile.Reconciler.
func (r *NodeReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	return reconcile(ctx, r.Source, req, &corev1.Node{}, r.nodes.Set, func() policy.Change { return r.nodes.Gone(req.Name) }, nil)
}

// SetupWithManager has the manager call Reconcile.
func (r *NodeReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).For(&corev1.Node{}).Named("node").Complete(r)
}
