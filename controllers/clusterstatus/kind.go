package clusterstatus

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
)

const (
	kindName     = "ClusterNetworkPolicy"
	resourceName = "clusternetworkpolicies"
)

// versions are those that are read and written, the best one first. They have the same schema, so the
// Go type of v1beta1 is that of all.
var versions = []string{"v1beta1", "v1alpha2"}

func groupVersion(version string) schema.GroupVersion {
	return schema.GroupVersion{Group: clusterv1beta1.GroupName, Version: version}
}

// schemeOf has the kind in one version.
func schemeOf(version string) *runtime.Scheme {
	s := runtime.NewScheme()
	s.AddKnownTypes(groupVersion(version), &clusterv1beta1.ClusterNetworkPolicy{}, &clusterv1beta1.ClusterNetworkPolicyList{})
	metav1.AddToGroupVersion(s, groupVersion(version))
	return s
}

// mapperOf knows the kind in one version, so that the API server need not be asked for its kinds.
func mapperOf(version string) meta.RESTMapper {
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.AddSpecific(groupVersion(version).WithKind(kindName), groupVersion(version).WithResource(resourceName), groupVersion(version).WithResource("clusternetworkpolicy"), meta.RESTScopeRoot)
	return mapper
}

// kind follows which version of ClusterNetworkPolicies the API server has. Their
// CustomResourceDefinition may be missing, and may come, go and change while this program runs.
type kind struct {
	api rest.Interface
	// poll is after how long to look again, on average.
	poll time.Duration
	// asked is told each time why the API server could not be asked; nil: it was.
	asked func(error)
	log   logr.Logger
}

// newKind returns a kind that asks the API server by the HTTP client.
func newKind(config *rest.Config, transport *http.Client, poll time.Duration, asked func(error), log logr.Logger) (*kind, error) {
	asks, err := discovery.NewDiscoveryClientForConfigAndClient(config, transport)
	if err != nil {
		return nil, fmt.Errorf("setting up the client that asks which kinds there are: %w", err)
	}
	return &kind{asks.RESTClient(), poll, asked, log}, nil
}

// follow calls watch with the version that the API server has, or with an empty one if it has none. When
// that changes, it ends the context of that call, waits until it has returned, and calls watch anew. It
// also does so if watch has failed. While the API server cannot be asked, all stays as it is.
func (k *kind) follow(ctx context.Context, watch func(ctx context.Context, version string) error) {
	var now *watching
	failure := "" // as logged
	for ctx.Err() == nil {
		version, err := k.served(ctx)
		if k.asked(err); err == nil {
			failure = ""
		} else if err.Error() != failure && ctx.Err() == nil {
			failure = err.Error()
			k.log.Error(err, "Cannot find out whether there are ClusterNetworkPolicies; trying again")
		}
		if err == nil && !now.isOf(version) {
			now.stop()
			now = k.start(ctx, version, watch)
		}
		select {
		case <-ctx.Done():
		case <-time.After(k.poll/2 + rand.N(k.poll)):
		}
	}
	now.stop()
}

// served returns the best version that the API server has; empty: it has none.
func (k *kind) served(ctx context.Context) (version string, err error) {
	for _, version := range versions {
		if has, err := k.has(ctx, version); err != nil || has {
			return version, err
		}
	}
	return "", nil
}

// has reports whether the API server has the kind in a version, with a status to be written.
func (k *kind) has(ctx context.Context, version string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	all := &metav1.APIResourceList{}
	err := k.api.Get().AbsPath("apis", clusterv1beta1.GroupName, version).Do(ctx).Into(all)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("asking the API server whether it has ClusterNetworkPolicies %s: %w", version, err)
	}
	return slices.ContainsFunc(all.APIResources, func(r metav1.APIResource) bool { return r.Name == resourceName+"/status" }), nil
}

// watching is a call of watch that is under way, or has ended.
type watching struct {
	version string
	cancel  context.CancelFunc
	ended   chan struct{}
}

func (k *kind) start(ctx context.Context, version string, watch func(context.Context, string) error) *watching {
	ctx, cancel := context.WithCancel(ctx)
	w := &watching{version, cancel, make(chan struct{})}
	go func() {
		defer close(w.ended)
		if err := watch(ctx, version); err != nil && ctx.Err() == nil {
			k.log.Error(err, "Cannot watch ClusterNetworkPolicies; trying again", "version", version)
		}
	}()
	return w
}

// isOf reports whether a version is watched.
func (w *watching) isOf(version string) bool {
	if w == nil || w.version != version {
		return false
	}
	select {
	case <-w.ended:
		return false
	default:
		return true
	}
}

// stop ends it, and waits until it has ended.
func (w *watching) stop() {
	if w != nil {
		w.cancel()
		<-w.ended
	}
}
