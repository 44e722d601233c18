package controllers

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/policy"
)

// PodAddressesReconciler feeds what the agents of other nodes announce of their new pods, as long as
// it can be believed (see TrustAnnouncements). The first load does not wait for it: what is announced
// only lets more pass, and a moment earlier than the pods' status would.
type PodAddressesReconciler struct {
	*Source
	// Node is this node, whose own announcements are no news here.
	Node string

	manager manager.Manager
	// seen is called with what the API server has of this node; nil: nothing. It must not wait.
	seen func(*v1alpha1.PodAddresses)
	// fed is what was fed last of each node, and trusted says whether it is fed at all. Source.mu
	// guards both.
	fed     map[string][]v1alpha1.PodAddress
	trusted bool
	// measuring has a token for each measurement under way. More are not measured.
	measuring chan struct{}
	// began is when announcements began to be fed. Source.mu guards it.
	began time.Time
	// watching says that the watch has begun. It belongs to the goroutine that calls
	// TrustAnnouncements.
	watching bool
}

// +kubebuilder:rbac:groups=podfence.io,resources=podaddresses,verbs=list;watch

// NewPodAddressesReconciler returns a reconciler for a node that watches nothing yet. seen is called
// with what the API server has of this node, or nil, whenever that has changed, and must not wait.
func NewPodAddressesReconciler(s *Source, mgr manager.Manager, node string, seen func(*v1alpha1.PodAddresses)) *PodAddressesReconciler {
	return &PodAddressesReconciler{Source: s, Node: node, manager: mgr, seen: seen, fed: map[string][]v1alpha1.PodAddress{}, measuring: make(chan struct{}, 64)}
}

// TrustAnnouncements says whether the cluster refuses false announcements. Those that were fed are
// taken back where it does not. The watch begins with the first time that it does, because until
// then the API server may not know the kind. It is for one goroutine at a time.
func (r *PodAddressesReconciler) TrustAnnouncements(ctx context.Context, is bool) error {
	r.mu.Lock()
	r.trusted, r.began = is, time.Now()
	r.mu.Unlock()
	switch {
	case is && !r.watching:
		if err := ctrl.NewControllerManagedBy(r.manager).For(&v1alpha1.PodAddresses{}).Named("podaddresses").Complete(r); err != nil {
			return fmt.Errorf("watching PodAddresses: %w", err)
		}
		r.watching = true
		return nil
	case !r.watching:
		return nil
	}
	var all v1alpha1.PodAddressesList
	if err := r.cache.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing PodAddresses: %w", err)
	}
	for i := range all.Items {
		if _, err := r.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&all.Items[i])}); err != nil {
			return err
		}
	}
	return nil
}

// Reconcile implements reconcile.Reconciler.
func (r *PodAddressesReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	received := time.Now()
	var fresh []time.Time // since when each pod has its addresses that was not announced before
	var own *v1alpha1.PodAddresses
	var now []v1alpha1.PodAddress
	object := &v1alpha1.PodAddresses{}
	gone := func() policy.Change {
		object.Name = req.Name
		return policy.Gone(object)
	}
	result, err := reconcile(ctx, r.Source, req, object,
		func(o *v1alpha1.PodAddresses) policy.Change {
			own = o
			if !r.trusted {
				return gone()
			}
			now = o.Pods
			return policy.ChangeOf(o)
		}, gone,
		func(uint64) {
			fresh = newOf(r.fed[req.Name], now, r.began)
			if delete(r.fed, req.Name); len(now) > 0 {
				r.fed[req.Name] = now
			}
		})
	if err == nil && req.Name == r.Node {
		r.seen(own)
	}
	if err == nil && len(fresh) > 0 && req.Name != r.Node {
		select {
		case r.measuring <- struct{}{}:
			go func() {
				defer func() { <-r.measuring }()
				r.measure(fresh, received)
			}()
		default:
		}
	}
	return result, err
}

// newOf are since when those pods have their addresses that were not announced before. What is older
// than began was announced while nobody read it here, and is no measure of how fast that goes.
func newOf(before, now []v1alpha1.PodAddress, began time.Time) (since []time.Time) {
	type sandbox struct { // of a pod, each of which was connected at a time of its own
		uid   types.UID
		since string
	}
	known := map[sandbox]bool{}
	for _, pod := range before {
		known[sandbox{pod.UID, pod.Since}] = true
	}
	for _, pod := range now {
		if t, ok := pod.SinceTime(); ok && !t.Before(began) && !known[sandbox{pod.UID, pod.Since}] {
			since = append(since, t)
		}
	}
	return since
}

// staleAfter is after how long an announcement is no measure of how fast announcements come: it was
// made while this agent's watch was away.
const staleAfter = time.Minute

// measure reports how long it took from when the addresses were given out until the kernel has what
// follows from that here. The time until they were received is between two nodes' clocks. If it is
// less than none, the other's clock is ahead, and the time is counted from the receipt on.
func (r *PodAddressesReconciler) measure(since []time.Time, received time.Time) {
	ctx, cancel := context.WithTimeout(context.Background(), staleAfter)
	defer cancel()
	if r.enforcer.SyncFirst(ctx) != nil {
		return
	}
	committed := time.Since(received)
	for _, t := range since {
		if way := received.Sub(t); way < staleAfter {
			r.report.Metrics.PeerKnown(max(way, 0) + committed)
		}
	}
}
