package controllers

import (
	"context"

	networkingv1 "k8s.io/api/networking/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/podfence/podfence/policy"
)

// NetworkPolicyReconciler feeds NetworkPolicies, and reports what of them
// cannot be enforced.
type NetworkPolicyReconciler struct {
	client.Reader
	*Enforcer
	Problems *Problems
	sizes    *policySizes
}

// +kubebuilder:rbac:groups=networking.k8s.io,resources=networkpolicies,verbs=list;watch

// Reconcile implements reconcile.Reconciler. It waits for nobody: the next policy is
// enforced by the same worker.
func (r *NetworkPolicyReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	// To parse a large policy takes tens of milliseconds, in which nothing could be
	// committed: so it is done before, and again only if the policy has changed since.
	before, np := &networkingv1.NetworkPolicy{}, &networkingv1.NetworkPolicy{}
	var (
		parsed   policy.Policy
		problems []policy.Problem
	)
	if err := r.Get(ctx, req.NamespacedName, before); err == nil {
		parsed, problems = parsePolicy(before)
	}
	result, err := reconcile(ctx, r.Enforcer, r, req, np,
		func(np *networkingv1.NetworkPolicy) policy.Change {
			if np.UID != before.UID || np.ResourceVersion != before.ResourceVersion {
				parsed, problems = parsePolicy(np)
			}
			r.policies.set(np)
			return policy.SetPolicy(parsed)
		},
		func() policy.Change {
			r.sizes.forget(req.NamespacedName)
			r.policies.delete(req.NamespacedName)
			return policy.DeletePolicy(req.NamespacedName)
		})
	if err == nil {
		r.Problems.Report(req.NamespacedName, np, append(problems, r.problemsOf(req.NamespacedName)...))
	}
	return result, err
}

// problemsOf are those of a policy that has been closed; none otherwise.
func (e *Enforcer) problemsOf(key policy.Key) []policy.Problem {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.model.Problems(key)
}

// SetupWithManager has the manager call Reconcile, also for a policy that the
// kernel has refused.
func (r *NetworkPolicyReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).For(&networkingv1.NetworkPolicy{}).
		WatchesRawSource(source.Channel(r.Enforcer.refusals.events, &handler.EnqueueRequestForObject{})).
		Named("networkpolicy").Complete(r)
}
