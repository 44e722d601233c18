package resolvers

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/policy"
)

// Options are what a Watcher is told.
type Options struct {
	// API is the API server to watch. Nil: nobody is watched, and Others are all there is.
	API *rest.Config
	// Service is the Service whose resolvers count; the zero Key: none does.
	Service policy.Key
	// Others are resolvers that count as well, behind those of the Service.
	Others []netip.AddrPort
	// Sink gets all resolvers, the best first, whenever they have changed: first Others, as soon as they are wanted, and all
	// when the API server has said which they are. It is called from one goroutine, and must not change what it gets.
	Sink func([]netip.AddrPort)
	Log  logr.Logger
}

// Watcher tells which resolvers there are. It watches one Service and its EndpointSlices, by two requests that the API
// server answers with nothing else, and only from when somebody wants to know: in a cluster of 5,000 nodes whose policies
// have no domain names, that would be 10,000 watches for nothing. It has a cache of its own, for which nothing
// else waits: an agent that may not read these objects, as its ClusterRole is of an earlier version, enforces all the same what
// has no names.
type Watcher struct {
	options Options
	wanted  chan struct{}
	want    sync.Once

	mu   sync.Mutex
	said map[string]bool // the errors that are in the log
}

// +kubebuilder:rbac:groups="",resources=services,verbs=list;watch
// +kubebuilder:rbac:groups=discovery.k8s.io,resources=endpointslices,verbs=list;watch

// New returns a Watcher, which watches nothing before Start and Want.
func New(o Options) *Watcher {
	return &Watcher{options: o, wanted: make(chan struct{}), said: map[string]bool{}}
}

// Want has it watch, and tell, from now on until its end. It may be called from any goroutine, and more than once.
func (w *Watcher) Want() { w.want.Do(func() { close(w.wanted) }) }

// NeedLeaderElection implements manager.LeaderElectionRunnable: every node's agent has to know.
func (*Watcher) NeedLeaderElection() bool { return false }

// Start watches until ctx is done. It implements manager.Runnable. What cannot be read is tried again for ever, as by all
// caches; what was read before counts until then.
func (w *Watcher) Start(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-w.wanted:
	}
	told := distinct(w.options.Others)
	w.options.Sink(told)
	if w.options.API == nil || w.options.Service == (policy.Key{}) {
		return nil
	}
	objects, err := w.cache()
	if err != nil {
		return fmt.Errorf("setting up the cache of the DNS Service: %w", err)
	}
	changed := make(chan struct{}, 1)
	for _, object := range []client.Object{&corev1.Service{}, &discoveryv1.EndpointSlice{}} {
		informer, err := objects.GetInformer(ctx, object, cache.BlockUntilSynced(false))
		if err != nil {
			return fmt.Errorf("watching %T: %w", object, err)
		}
		if _, err := informer.AddEventHandler(wakes(changed)); err != nil {
			return fmt.Errorf("watching %T: %w", object, err)
		}
	}
	running, ctx := errgroup.WithContext(ctx)
	running.Go(func() error { return objects.Start(ctx) })
	running.Go(func() error { return w.follow(ctx, objects, changed, told) })
	return running.Wait()
}

// follow tells the resolvers that the cache's objects are, when it has them and whenever that has changed, until ctx is done.
// told is what was told last.
func (w *Watcher) follow(ctx context.Context, objects cache.Cache, changed <-chan struct{}, told []netip.AddrPort) error {
	if !objects.WaitForCacheSync(ctx) {
		return nil
	}
	for {
		now, err := w.read(ctx, objects)
		if err != nil {
			return err
		}
		if !slices.Equal(now, told) {
			w.options.Log.Info("The cluster's resolvers", "service", w.options.Service, "resolvers", now)
			w.options.Sink(now)
			told = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// read are all resolvers, as the cache has the objects.
func (w *Watcher) read(ctx context.Context, objects client.Reader) ([]netip.AddrPort, error) {
	service := &corev1.Service{}
	switch err := objects.Get(ctx, w.options.Service, service); {
	case apierrors.IsNotFound(err):
		service = nil
	case err != nil:
		return nil, fmt.Errorf("reading Service %s: %w", w.options.Service, err)
	}
	var endpoints discoveryv1.EndpointSliceList
	if err := objects.List(ctx, &endpoints); err != nil {
		return nil, fmt.Errorf("listing the EndpointSlices of Service %s: %w", w.options.Service, err)
	}
	return distinct(Of(service, endpoints.Items), w.options.Others), nil
}

// cache is a cache of the Service and its EndpointSlices, as far as Of reads them.
func (w *Watcher) cache() (cache.Cache, error) {
	scheme, mapper := runtime.NewScheme(), meta.NewDefaultRESTMapper(nil)
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	if err := discoveryv1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	// These kinds are always there, so the API server need not be asked for them, which may be away.
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Service"), meta.RESTScopeNamespace)
	mapper.Add(discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), meta.RESTScopeNamespace)
	transport, err := rest.HTTPClientFor(w.options.API)
	if err != nil {
		return nil, err
	}
	key := w.options.Service
	inNamespace := fields.OneTermEqualSelector("metadata.namespace", key.Namespace) // which becomes part of the path
	return cache.New(w.options.API, cache.Options{
		Scheme: scheme, Mapper: mapper, HTTPClient: transport,
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Service{}:            {Field: fields.AndSelectors(inNamespace, fields.OneTermEqualSelector("metadata.name", key.Name))},
			&discoveryv1.EndpointSlice{}: {Field: inNamespace, Label: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: key.Name})},
		},
		DefaultWatchErrorHandler: w.failed,
	})
}

// failed says why something cannot be read. That the agent may not is said once of each kind and verb.
func (w *Watcher) failed(ctx context.Context, r *toolscache.Reflector, err error) {
	if !apierrors.IsForbidden(err) {
		toolscache.DefaultWatchErrorHandler(ctx, r, err)
		return
	}
	w.mu.Lock()
	news := !w.said[err.Error()]
	w.said[err.Error()] = true
	w.mu.Unlock()
	if news {
		w.options.Log.Error(err, "Cannot read the DNS Service and its EndpointSlices, so that no names are resolved by it: apply the ClusterRole of this version of podfence")
	}
}

// wakes has each change put a token into a channel.
func wakes(changed chan<- struct{}) toolscache.ResourceEventHandler {
	wake := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { wake() },
		UpdateFunc: func(any, any) { wake() },
		DeleteFunc: func(any) { wake() },
	}
}
