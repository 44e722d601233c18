package controllers

import (
	"context"

	networkingv1 "k8s.io/api/networking/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/podfence/podfence/policy"
)

// NetworkPolicyReconciler feeds NetworkPolicies, and reports what of them
// cannot be enforced.
type NetworkPolicyReconciler struct{ *Source }

// +kubebuilder:rbac:groups=networking.k8s.io,resources=networkpolicies,verbs=list;watch

// Reconcile implements reconcile.Reconciler. It waits for nobody, because the same worker has to
// feed the next policy.
func (r *NetworkPolicyReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	// To parse a large policy takes tens of milliseconds, in which no other object could be fed. So
	// it is parsed before the step that feeds it, and again only if it has changed since.
	before, np := &networkingv1.NetworkPolicy{}, &networkingv1.NetworkPolicy{}
	var (
		parsed   policy.Policy
		problems []policy.Problem
	)
	if err := r.cache.Get(ctx, req.NamespacedName, before); err == nil {
		parsed, problems = parsePolicy(before)
	}
	gone := false
	result, err := reconcile(ctx, r.Source, req, np,
		func(np *networkingv1.NetworkPolicy) policy.Change {
			if np.UID != before.UID || np.ResourceVersion != before.ResourceVersion {
				parsed, problems = parsePolicy(np)
			}
			return policy.SetPolicy(parsed)
		},
		func() policy.Change {
			gone = true
			r.policySizes.forget(req.NamespacedName)
			return policy.DeletePolicy(req.NamespacedName)
		},
		func(fed uint64) {
			if gone {
				r.fed.delete(policiesOf(req.Namespace), req.Name)
			} else {
				r.fed.set(policiesOf(req.Namespace), np)
				r.report.Enforcement.Fed(np, fed)
			}
		})
	switch {
	case err != nil:
	case gone:
		r.report.Problems.Gone(req.NamespacedName)
		r.report.Counting.Gone(req.NamespacedName)
		r.report.Staged.Gone(req.NamespacedName)
		r.report.Enforcement.Gone(req.NamespacedName)
	default:
		r.report.Counting.Set(np)
		r.report.Staged.Policy(np)
		r.report.Problems.Report(np, problems)
	}
	return result, err
}

// SetupWithManager has the manager call Reconcile. When the watch tells of a policy is noted before the
// policy waits for its turn.
func (r *NetworkPolicyReconciler) SetupWithManager(mgr ctrl.Manager) error {
	arrived := func(object client.Object) bool {
		r.report.Enforcement.Arrived(client.ObjectKeyFromObject(object))
		return true
	}
	noted := predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool { return arrived(e.Object) },
		UpdateFunc: func(e event.UpdateEvent) bool { return arrived(e.ObjectNew) },
	}
	return ctrl.NewControllerManagedBy(mgr).For(&networkingv1.NetworkPolicy{}, builder.WithPredicates(noted)).Named("networkpolicy").Complete(r)
}
