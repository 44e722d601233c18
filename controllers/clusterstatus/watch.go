package clusterstatus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/controllers/relist"
)

const (
	// After a failure a policy is tried again after firstRetry, and then less and less often, up to
	// lastRetry.
	firstRetry, lastRetry = time.Second, time.Minute
	// noTimeout is how long the controller waits for its first list: until the kind goes.
	noTimeout = time.Duration(math.MaxInt64)
)

// errUnread is why the program is not ready while it knows no policies.
var errUnread = errors.New("the ClusterNetworkPolicies have not been read yet: if that stays so, the log says why")

// watch writes the status of the policies of one version until ctx is done. It has a cache and a
// controller of its own, as a manager's would neither wait for the kind nor let go of it.
func (w *Writer) watch(ctx context.Context, version string) error {
	if version == "" {
		w.log.Info("The API server has no ClusterNetworkPolicies; waiting until somebody installs their CustomResourceDefinition")
		w.health.read(nil)
		<-ctx.Done()
		return nil
	}
	w.log.Info("Writing the status of ClusterNetworkPolicies", "version", version)
	w.health.read(errUnread)
	policies, err := w.cacheOf(version)
	if err != nil {
		return err
	}
	c, err := w.controllerOf(ctx, version, policies)
	if err != nil {
		return err
	}
	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error { return policies.Start(ctx) })
	parts.Go(func() error { return c.Start(ctx) })
	parts.Go(func() error {
		if policies.WaitForCacheSync(ctx) {
			w.health.read(nil)
		}
		return nil
	})
	return parts.Wait()
}

// cacheOf returns a cache of the policies of one version.
func (w *Writer) cacheOf(version string) (cache.Cache, error) {
	policies, err := cache.New(w.api, cache.Options{
		HTTPClient: w.transport, Scheme: schemeOf(version), Mapper: mapperOf(version),
		SyncPeriod: w.resync, DefaultTransform: Keep,
		DefaultWatchErrorHandler: w.watchFailed, NewInformer: newInformer,
	})
	if err != nil {
		return nil, fmt.Errorf("setting up the cache of ClusterNetworkPolicies %s: %w", version, err)
	}
	return policies, nil
}

// newInformer returns an informer that has all fields of the policies also after their definition has
// changed. The cache treats a policy that is listed again as changed if its condition should be another
// one (see kept.GetResourceVersion).
func newInformer(requests toolscache.ListerWatcher, example runtime.Object, resync time.Duration, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
	return toolscache.NewSharedIndexInformer(relist.AfterEachWatch(requests), example, resync, indexers)
}

// watchFailed logs why the policies cannot be listed or watched. That a watch has ended is no failure,
// nor that the kind has gone: follow finds it out as well.
func (w *Writer) watchFailed(ctx context.Context, r *toolscache.Reflector, err error) {
	if errors.Is(err, relist.ErrEnded) {
		return
	}
	if apierrors.IsNotFound(err) {
		w.log.V(1).Info("The API server has these ClusterNetworkPolicies no more", "because", err.Error())
		return
	}
	toolscache.DefaultWatchErrorHandler(ctx, r, err)
}

// controllerOf returns a controller that reconciles each policy of a cache that changes. It looks at
// all changes, also at those of the status, which somebody else may have written.
func (w *Writer) controllerOf(ctx context.Context, version string, policies cache.Cache) (controller.Controller, error) {
	informer, err := policies.GetInformer(ctx, &clusterv1beta1.ClusterNetworkPolicy{}, cache.BlockUntilSynced(false))
	if err != nil {
		return nil, fmt.Errorf("watching ClusterNetworkPolicies %s: %w", version, err)
	}
	shared, is := informer.(toolscache.SharedInformer)
	if !is {
		return nil, fmt.Errorf("watching ClusterNetworkPolicies %s: the cache's informer is a %T, which has no store", version, informer)
	}
	writes, err := client.New(w.api, client.Options{HTTPClient: w.transport, Scheme: schemeOf(version), Mapper: mapperOf(version)})
	if err != nil {
		return nil, fmt.Errorf("setting up the client that writes the status of ClusterNetworkPolicies %s: %w", version, err)
	}
	c, err := controller.NewUnmanaged("clusternetworkpolicy-status", controller.Options{
		Reconciler:         &ClusterNetworkPolicyReconciler{Version: version, Policies: shared.GetStore(), Client: writes, Log: w.log},
		RateLimiter:        workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry),
		CacheSyncTimeout:   noTimeout,
		SkipNameValidation: new(true),  // there is one after the other, and in tests several at once
		Logger:             w.log.V(1), // what starts and stops in it is for developers
	})
	if err != nil {
		return nil, fmt.Errorf("setting up the controller of ClusterNetworkPolicies %s: %w", version, err)
	}
	return c, c.Watch(source.Kind[client.Object](policies, &clusterv1beta1.ClusterNetworkPolicy{}, &handler.EnqueueRequestForObject{}))
}
