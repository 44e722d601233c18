package controllers

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/policy"
)

// PodReconciler feeds pods: this node's as subjects, all as peers.
type PodReconciler struct {
	client.Reader
	*Enforcer
}

// +kubebuilder:rbac:groups="",resources=pods,verbs=list;watch

// Reconcile implements reconcile.Reconciler.
func (r *PodReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	return reconcile(ctx, r.Enforcer, r, req, &corev1.Pod{}, setPod,
		func(m *policy.Model) { m.DeletePod(req.NamespacedName) })
}

func setPod(m *policy.Model, p *corev1.Pod) {
	if pod, seen := policy.PodOf(p); seen {
		m.SetPod(pod)
	} else {
		m.DeletePod(client.ObjectKeyFromObject(p))
	}
}

// SetupWithManager has the manager call Reconcile.
func (r *PodReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).For(&corev1.Pod{}).Named("pod").Complete(r)
}
