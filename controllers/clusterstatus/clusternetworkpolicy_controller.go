package clusterstatus

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// FieldManager is the name under which the API server notes the condition as this program's.
	FieldManager = "podfence-status-writer"
	// requestTimeout is how long the API server may take to answer.
	requestTimeout = 10 * time.Second
	// restoreEvery is how often, at most, the same condition of a policy is written again that
	// somebody else has overwritten. If that is a program that does so whenever this one writes, the
	// two would otherwise keep the API server busy.
	restoreEvery = 10 * time.Second
)

// ClusterNetworkPolicyReconciler writes the condition Accepted of ClusterNetworkPolicies.
type ClusterNetworkPolicyReconciler struct {
	// Version is the version of the kind that is read and written.
	Version string
	// Policies has them, as Keep keeps them, by name. Client writes their status.
	Policies toolscache.KeyGetter
	Client   client.StatusClient
	Log      logr.Logger
	// written is what was written last, by the policy's name. The controller reconciles one policy at
	// a time, so nothing guards it.
	written map[string]written
}

// written is a condition that was written, of which policy, and when.
type written struct {
	uid       types.UID
	condition metav1.Condition
	at        time.Time
}

// Reconcile implements reconcile.Reconciler. It asks the API server nothing if the condition is as it
// should be.
func (r *ClusterNetworkPolicyReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	object, exists, err := r.Policies.GetByKey(req.Name)
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("reading ClusterNetworkPolicy %s from the cache: %w", req.Name, err)
	}
	if !exists {
		delete(r.written, req.Name)
		return ctrl.Result{}, nil
	}
	p := object.(*kept)
	conditions := slices.Clone(p.Has)
	if !meta.SetStatusCondition(&conditions, p.Want) {
		return ctrl.Result{}, nil
	}
	if wait := r.pause(p); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	return ctrl.Result{}, r.write(ctx, p, *meta.FindStatusCondition(conditions, ConditionAccepted))
}

// pause is how long to wait before a condition is written that was written a moment ago. Most often
// the cache does not show yet that it was.
func (r *ClusterNetworkPolicyReconciler) pause(p *kept) time.Duration {
	last, is := r.written[p.Name]
	if !is || last.uid != p.UID || last.condition != p.Want {
		return 0
	}
	return time.Until(last.at.Add(restoreEvery))
}

// write has the API server take a policy's condition; dated is that with its time. The API server refuses
// it if the policy has changed since it was read. What has changed then reconciles the policy again.
func (r *ClusterNetworkPolicyReconciler) write(ctx context.Context, p *kept, dated metav1.Condition) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	applied, err := statusOf(p, r.Version, dated)
	if err == nil {
		err = r.Client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(applied), client.FieldOwner(FieldManager), client.ForceOwnership)
	}
	switch {
	case apierrors.IsConflict(err) || apierrors.IsNotFound(err):
		return nil
	case apierrors.IsForbidden(err):
		return fmt.Errorf("writing the status of ClusterNetworkPolicy %s, for which the role of config/status is needed: %w", p.Name, err)
	case err != nil:
		return fmt.Errorf("writing the status of ClusterNetworkPolicy %s: %w", p.Name, err)
	}
	if r.written == nil {
		r.written = map[string]written{}
	}
	r.written[p.Name] = written{p.UID, p.Want, time.Now()}
	r.Log.V(1).Info("Wrote the condition of a ClusterNetworkPolicy", "clusterNetworkPolicy", p.Name, "generation", p.Want.ObservedGeneration, "accepted", p.Want.Status, "reason", p.Want.Reason)
	return nil
}

// statusOf is what is applied: the one condition, and nothing else of the policy, so that the API
// server leaves all that others have written. By its resourceVersion, it is refused if the policy has
// changed.
func statusOf(p *kept, version string, condition metav1.Condition) (*unstructured.Unstructured, error) {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&condition)
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"conditions": []any{fields}}}}
	u.SetGroupVersionKind(groupVersion(version).WithKind(kindName))
	u.SetName(p.Name)
	u.SetResourceVersion(p.ResourceVersion)
	return u, nil
}
