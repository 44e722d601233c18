package controllers

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/policy"
)

// NodeReconciler feeds nodes: this one's pod ranges.
type NodeReconciler struct {
	client.Reader
	*Enforcer
}

// +kubebuilder:rbac:groups="",resources=nodes,verbs=list;watch

// Reconcile implements reconcile.Reconciler.
func (r *NodeReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	return reconcile(ctx, r.Enforcer, r, req, &corev1.Node{}, setNode,
		func(m *policy.Model) { m.DeleteNode(req.Name) })
}

func setNode(m *policy.Model, n *corev1.Node) { m.SetNode(policy.NodeOf(n)) }

// SetupWithManager has the manager call Reconcile.
func (r *NodeReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).For(&corev1.Node{}).Named("node").Complete(r)
}
