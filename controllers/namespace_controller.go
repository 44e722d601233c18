package controllers

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/policy"
)

// NamespaceReconciler feeds namespaces: their labels, for namespaceSelectors and for the subjects of
// ClusterNetworkPolicies.
type NamespaceReconciler struct{ *Source }

// +kubebuilder:rbac:groups="",resources=namespaces,verbs=list;watch

// Reconcile implements reconcile.Reconciler.
func (r *NamespaceReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	ns, gone := &corev1.Namespace{}, false
	return reconcile(ctx, r.Source, req, ns,
		func(ns *corev1.Namespace) policy.Change { return policy.ChangeOf(ns) },
		func() policy.Change {
			gone = true
			return policy.DeleteNamespace(req.Name)
		},
		func(uint64) {
			if gone {
				r.fed.delete(namespaceScope(req.Name), req.Name)
				r.report.Staged.NamespaceGone(req.Name)
			} else {
				r.fed.set(namespaceScope(req.Name), ns)
				r.report.Staged.Namespace(ns)
			}
		})
}

// SetupWithManager has the manager call Reconcile.
func (r *NamespaceReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).For(&corev1.Namespace{}).Named("namespace").Complete(r)
}

// WantsDropLog reports whether a namespace asks for the drop log, as the cache has it. It may be called from
// any goroutine, and does not wait.
func (s *Source) WantsDropLog(namespace string) bool {
	ns := &corev1.Namespace{}
	if s.cache == nil || s.cache.Get(context.Background(), client.ObjectKey{Name: namespace}, ns) != nil {
		return false // it is gone, or not known yet
	}
	return ns.Annotations[flows.DropLogAnnotation] == "true"
}
