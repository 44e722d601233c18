package cluster

import (
	"context"
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/api/v1alpha1"
)

// clusterResources are ClusterNetworkPolicies in the versions that are read, the best one first. They have
// the same schema, so all are read as the Go type of v1beta1.
var clusterResources = []schema.GroupVersionResource{
	{Group: clusterv1beta1.GroupName, Version: "v1beta1", Resource: "clusternetworkpolicies"},
	{Group: clusterv1beta1.GroupName, Version: "v1alpha2", Resource: "clusternetworkpolicies"},
}

// clusterPolicies lists the ClusterNetworkPolicies in the best version that the API server has. It has
// none where it does not have the kind.
func (r *reader) clusterPolicies(ctx context.Context) ([]*clusterv1beta1.ClusterNetworkPolicy, error) {
	for _, resource := range clusterResources {
		all, has, err := custom[clusterv1beta1.ClusterNetworkPolicy](ctx, r.dynamic.Resource(resource), func() (bool, error) { return r.serves(resource) })
		if err != nil || has {
			return all, refused(resource.GroupResource().String(), err)
		}
	}
	return nil, nil
}

// podAddresses lists what the agents have announced. There is nothing where the API server does not have
// the kind.
func (r *reader) podAddresses(ctx context.Context) ([]*v1alpha1.PodAddresses, error) {
	resource := schema.GroupVersionResource{Group: "podfence.io", Version: "v1alpha1", Resource: "podaddresses"}
	all, _, err := custom[v1alpha1.PodAddresses](ctx, r.dynamic.Resource(resource), func() (bool, error) { return r.serves(resource) })
	return all, err
}

// custom lists objects of a custom resource of the whole cluster, and reports whether the API server has it,
// which serves asks discovery.
func custom[T any](ctx context.Context, resource dynamic.ResourceInterface, serves func() (bool, error)) (all []*T, has bool, err error) {
	all, err = listed(ctx, "", func(ctx context.Context, _ string, o metav1.ListOptions) (runtime.Object, error) {
		return resource.List(ctx, o)
	}, func(o runtime.Object) (*T, error) {
		raw, is := o.(*unstructured.Unstructured)
		if !is {
			return nil, fmt.Errorf("the API server has sent a %T among objects of a custom resource", o)
		}
		raw.SetManagedFields(nil)
		one := new(T)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw.Object, one); err != nil {
			return nil, fmt.Errorf("%s %s has other fields than podfence knows, so install its CustomResourceDefinition as published: %w", raw.GetKind(), raw.GetName(), err)
		}
		return one, nil
	})
	switch {
	case isMissing(err):
		return nil, false, nil
	case apierrors.IsForbidden(err):
		// Who may not list a resource is not told whether there is one.
		if has, asked := serves(); asked == nil && !has {
			return nil, false, nil
		}
	}
	return all, true, err
}

// serves asks discovery whether the API server has a resource.
func (r *reader) serves(resource schema.GroupVersionResource) (bool, error) {
	resources, err := r.discovery.ServerResourcesForGroupVersion(resource.GroupVersion().String())
	if isMissing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(resources.APIResources, func(one metav1.APIResource) bool { return one.Name == resource.Resource }), nil
}

// workload is a kind that pods may be owned by.
type workload struct {
	kind     string
	resource schema.GroupVersionResource
}

// without is what answers leave out without this kind.
func (w workload) without() (resource, left string) {
	return w.resource.GroupResource().String(), "pods are named by another owner of theirs, and a question about a " + w.kind + " may have no answer."
}

// cronJob is the one kind that is not read as metadata alone: between two runs, its template says who its next
// pod will be.
var cronJob = workload{"CronJob", schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "cronjobs"}}

// workloads are the other kinds that pods may be owned by, by way of others too.
var workloads = []workload{
	{"Deployment", schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}},
	{"ReplicaSet", schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}},
	{"StatefulSet", schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "statefulsets"}},
	{"DaemonSet", schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}},
	{"Job", schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}},
}

// cronJobs lists the CronJobs.
func (r *reader) cronJobs(ctx context.Context) ([]*batchv1.CronJob, error) {
	all, _, err := scoped(ctx, r.namespaces, cronJob.resource.GroupResource().String(), func(ctx context.Context, ns string, o metav1.ListOptions) (runtime.Object, error) {
		return r.kinds.BatchV1().CronJobs(ns).List(ctx, o)
	}, slim[*batchv1.CronJob])
	return all, err
}

// metadataOf is the metadata of CronJobs, as workloads has that of the other kinds.
func metadataOf(cronJobs []*batchv1.CronJob) (all []*metav1.PartialObjectMetadata) {
	for _, one := range cronJobs {
		meta := &metav1.PartialObjectMetadata{ObjectMeta: one.ObjectMeta}
		meta.SetGroupVersionKind(cronJob.resource.GroupVersion().WithKind(cronJob.kind))
		all = append(all, meta)
	}
	return all
}

// workloads lists the metadata of a kind, whose name each object gets.
func (r *reader) workloads(ctx context.Context, w workload) ([]*metav1.PartialObjectMetadata, error) {
	all, _, err := scoped(ctx, r.namespaces, w.resource.GroupResource().String(), func(ctx context.Context, ns string, o metav1.ListOptions) (runtime.Object, error) {
		return r.metadata.Resource(w.resource).Namespace(ns).List(ctx, o)
	}, func(o runtime.Object) (*metav1.PartialObjectMetadata, error) {
		one, err := slim[*metav1.PartialObjectMetadata](o)
		if err == nil {
			one.SetGroupVersionKind(w.resource.GroupVersion().WithKind(w.kind))
		}
		return one, err
	})
	return all, err
}
