package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
)

// clusterGroup is the API group of ClusterNetworkPolicies, and clusterResource their name in it.
const (
	clusterGroup    = clusterv1beta1.GroupName
	clusterResource = "clusternetworkpolicies"
)

// clusterVersions are the versions of ClusterNetworkPolicies that are read, the best one first. They
// have the same schema, so all are read as the Go type of v1beta1.
var clusterVersions = []string{"v1beta1", "v1alpha2"}

func clusterGroupVersion(version string) schema.GroupVersion {
	return schema.GroupVersion{Group: clusterGroup, Version: version}
}

// ClusterNetworkPolicyKinds are the kinds by which the API server is asked for ClusterNetworkPolicies,
// one for each version.
func ClusterNetworkPolicyKinds() (kinds []schema.GroupVersionKind) {
	for _, version := range clusterVersions {
		kinds = append(kinds, clusterGroupVersion(version).WithKind(clusterNetworkPolicyKind))
	}
	return kinds
}

// clusterKind asks the API server for ClusterNetworkPolicies of any version, and whether there is one.
type clusterKind struct{ client rest.Interface }

// newClusterKind returns a clusterKind that asks as config says. It has no rate of its own, because
// whoever asks does so rarely.
func newClusterKind(config *rest.Config, transport *http.Client) (clusterKind, error) {
	types := runtime.NewScheme()
	for _, version := range clusterVersions {
		types.AddKnownTypes(clusterGroupVersion(version), &clusterv1beta1.ClusterNetworkPolicy{}, &clusterv1beta1.ClusterNetworkPolicyList{})
		metav1.AddToGroupVersion(types, clusterGroupVersion(version))
	}
	best := clusterGroupVersion(clusterVersions[0])
	own := rest.CopyConfig(config)
	own.QPS, own.RateLimiter = -1, nil
	own.APIPath, own.ContentConfig = "/apis", rest.ContentConfig{
		ContentType: runtime.ContentTypeJSON, NegotiatedSerializer: serializer.NewCodecFactory(types).WithoutConversion(),
		GroupVersion: &best, // which the client must have; each request says its own
	}
	asks, err := rest.RESTClientForConfigAndClient(own, transport)
	if err != nil {
		return clusterKind{}, fmt.Errorf("setting up the client for ClusterNetworkPolicies: %w", err)
	}
	return clusterKind{asks}, nil
}

// offered reports whether the API server's discovery shows the kind, of any version. If it does not,
// that is one small GET.
func (k clusterKind) offered(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	group := &metav1.APIGroup{}
	if err := k.discover(ctx, "/apis/"+clusterGroup, group); err != nil {
		return false, err
	}
	for _, v := range group.Versions {
		if !slices.Contains(clusterVersions, v.Version) {
			continue
		}
		resources := &metav1.APIResourceList{}
		if err := k.discover(ctx, "/apis/"+clusterGroup+"/"+v.Version, resources); err != nil {
			return false, err
		}
		if slices.ContainsFunc(resources.APIResources, func(r metav1.APIResource) bool { return r.Name == clusterResource }) {
			return true, nil
		}
	}
	return false, nil
}

// discover asks for a document of discovery, which stays empty if there is none.
func (k clusterKind) discover(ctx context.Context, path string, document runtime.Object) error {
	err := k.client.Get().AbsPath(path).Do(ctx).Into(document)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("asking the API server whether it has ClusterNetworkPolicies: %w", err)
	}
	return nil
}

// errUnreadable is of a list that is not one of ClusterNetworkPolicies as podfence knows them.
var errUnreadable = errors.New("they have other fields than network-policy-api defines, so install its CustomResourceDefinition as published")

// list lists the policies of a version.
func (k clusterKind) list(ctx context.Context, version string, o metav1.ListOptions) (runtime.Object, error) {
	result := k.request(version, o).Do(ctx)
	if err := result.Error(); err != nil {
		return nil, err
	}
	list := &clusterv1beta1.ClusterNetworkPolicyList{}
	if err := result.Into(list); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return list, nil
}

// watch watches the policies of a version.
func (k clusterKind) watch(ctx context.Context, version string, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	return k.request(version, o).Watch(ctx)
}

func (k clusterKind) request(version string, o metav1.ListOptions) *rest.Request {
	return k.client.Get().AbsPath("/apis/"+clusterGroup+"/"+version, clusterResource).
		SpecificallyVersionedParams(&o, metav1.ParameterCodec, metav1.SchemeGroupVersion)
}

// isRefused reports whether an error of a list will not pass by itself: the API server does not let
// the agent have what it asks for, or has something else. It is not refused by a server that is away,
// that starts, or that has too much to do.
func isRefused(err error) bool {
	if errors.Is(err, errUnreadable) {
		return true
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	switch code := status.Status().Code; code {
	case http.StatusNotFound, http.StatusRequestTimeout, http.StatusGone, http.StatusTooManyRequests:
		return false
	default:
		return code >= 400 && code < 500
	}
}
