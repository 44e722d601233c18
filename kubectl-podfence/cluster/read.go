package cluster

import (
	"context"
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	appsclient "k8s.io/client-go/kubernetes/typed/apps/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/manifests"
)

// Result is what was read of a cluster.
type Result struct {
	// Cluster is running, unless its pods could be read of some namespaces only: then nobody can tell
	// which nodes have an agent.
	Cluster *explain.Cluster
	// Missing says, a sentence each, what the user may not read, and what answers leave out by that.
	Missing []string
}

// Read lists all that questions about a cluster need. It asks for every kind at once, each in pages. A CronJob that
// has no pod, as between two runs, has one that stands for its next (v1alpha1.StandInAnnotation).
//
// If the user may not list pods, policies or Namespaces of the whole cluster, those of the namespaces that
// are given are read, as far as an answer about them needs no others. What is left out then, and what of
// lesser kinds may not be listed, is in Missing. Without policies or pods there is no right answer: if
// these may not be read at all, that is an error which names the right that is missing.
func Read(ctx context.Context, config *rest.Config, namespaces []string) (*Result, error) {
	r, err := newReader(config, namespaces)
	if err != nil {
		return nil, err
	}
	return r.read(ctx)
}

// reader has the clients for all kinds.
type reader struct {
	kinds      kubernetes.Interface
	metadata   metadata.Interface
	dynamic    dynamic.Interface
	discovery  discovery.DiscoveryInterface
	namespaces []string
}

// apps is who lists workloads, and in which namespaces.
func (r *reader) apps() (appsclient.AppsV1Interface, []string) { return r.kinds.AppsV1(), r.namespaces }

func newReader(config *rest.Config, namespaces []string) (*reader, error) {
	quick := rest.CopyConfig(config)
	quick.ContentType, quick.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	kinds, err := kubernetes.NewForConfig(quick)
	if err != nil {
		return nil, fmt.Errorf("setting up a client of %s: %w", config.Host, err)
	}
	objects, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("setting up a client of %s for metadata: %w", config.Host, err)
	}
	custom, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("setting up a client of %s for custom resources: %w", config.Host, err)
	}
	return &reader{kinds: kinds, metadata: objects, dynamic: custom, discovery: kinds.Discovery(), namespaces: namespaces}, nil
}

// read lists all kinds at once. Each list writes a part of the cluster, and of what is missing, of its own.
func (r *reader) read(ctx context.Context) (*Result, error) {
	c := &explain.Cluster{Running: true}
	whole := true // all pods are known
	var all lists
	all.add(func() (missing string, err error) {
		c.Pods, whole, err = scoped(ctx, r.namespaces, "pods", func(ctx context.Context, ns string, o metav1.ListOptions) (runtime.Object, error) {
			return r.kinds.CoreV1().Pods(ns).List(ctx, o)
		}, slim[*corev1.Pod])
		if !whole {
			missing = r.only("Pods") + "addresses of other pods are taken for addresses outside the cluster, and nobody looks whether the nodes have an agent."
		}
		return missing, err
	})
	all.add(func() (missing string, err error) {
		var all bool
		c.Policies, all, err = scoped(ctx, r.namespaces, "networkpolicies.networking.k8s.io", func(ctx context.Context, ns string, o metav1.ListOptions) (runtime.Object, error) {
			return r.kinds.NetworkingV1().NetworkPolicies(ns).List(ctx, o)
		}, slim[*networkingv1.NetworkPolicy])
		if !all {
			missing = r.only("NetworkPolicies") + "they decide about the pods of these namespaces, and those of others about other pods."
		}
		return missing, err
	})
	all.add(func() (_ string, err error) {
		c.ClusterPolicies, err = r.clusterPolicies(ctx)
		return "", err
	})
	all.add(func() (missing string, err error) {
		c.Namespaces, missing, err = r.readNamespaces(ctx)
		return missing, err
	})
	all.add(func() (_ string, err error) {
		c.Nodes, err = listed(ctx, "", func(ctx context.Context, _ string, o metav1.ListOptions) (runtime.Object, error) {
			return r.kinds.CoreV1().Nodes().List(ctx, o)
		}, slim[*corev1.Node])
		return forgiven("nodes", "traffic of nodes is taken for traffic from outside the cluster, and a node that a pod is on does not count as allowed to reach it.", err)
	})
	all.add(func() (_ string, err error) {
		c.PodAddresses, err = r.podAddresses(ctx)
		return forgiven("podaddresses.podfence.io", "a pod that has just started may be without an address here that podfence knows already.", err)
	})
	all.add(func() (missing string, err error) {
		var all bool
		c.Services, all, err = scoped(ctx, r.namespaces, "services", func(ctx context.Context, ns string, o metav1.ListOptions) (runtime.Object, error) {
			return r.kinds.CoreV1().Services(ns).List(ctx, o)
		}, slim[*corev1.Service])
		if err == nil && !all {
			return r.only("Services") + "the address of another Service is taken for one outside the cluster.", nil
		}
		return forgiven("services", "questions about a Service have no answer.", err)
	})
	all.add(func() (missing string, err error) {
		c.EndpointSlices, _, err = scoped(ctx, r.namespaces, "endpointslices.discovery.k8s.io", func(ctx context.Context, ns string, o metav1.ListOptions) (runtime.Object, error) {
			return r.kinds.DiscoveryV1().EndpointSlices(ns).List(ctx, o)
		}, slim[*discoveryv1.EndpointSlice])
		return forgiven("endpointslices.discovery.k8s.io", "which endpoints a Service without a selector has is not known.", err)
	})
	of := make([][]*metav1.PartialObjectMetadata, len(workloads))
	for i, w := range workloads {
		all.add(func() (_ string, err error) {
			of[i], err = r.workloads(ctx, w)
			resource, left := w.without()
			return forgiven(resource, left, err)
		})
	}
	var cronJobs []*batchv1.CronJob
	all.add(func() (_ string, err error) {
		cronJobs, err = r.cronJobs(ctx)
		resource, left := cronJob.without()
		return forgiven(resource, left, err)
	})
	missing, err := all.wait()
	c.Workloads, c.Running = append(slices.Concat(of...), metadataOf(cronJobs)...), whole
	if !whole { // whether those elsewhere have pods nobody knows
		cronJobs = slices.DeleteFunc(cronJobs, func(one *batchv1.CronJob) bool { return !slices.Contains(r.namespaces, one.Namespace) })
	}
	c.Pods = append(c.Pods, manifests.NextPods(c.Snapshot, c.Workloads, cronJobs)...)
	return &Result{Cluster: c, Missing: missing}, err
}

// only begins a sentence about objects that were read of some namespaces.
func (r *reader) only(objects string) string {
	return fmt.Sprintf("%s were read of %s only, as you may not list those of all namespaces: ", objects, spaces(r.namespaces))
}

// readNamespaces lists the Namespaces, or gets those that are asked about if the user may not list them.
func (r *reader) readNamespaces(ctx context.Context) (all []*corev1.Namespace, missing string, err error) {
	all, err = listed(ctx, "", func(ctx context.Context, _ string, o metav1.ListOptions) (runtime.Object, error) {
		return r.kinds.CoreV1().Namespaces().List(ctx, o)
	}, slim[*corev1.Namespace])
	if !apierrors.IsForbidden(err) || len(r.namespaces) == 0 {
		return all, "", refused("namespaces", err)
	}
	for _, name := range r.namespaces {
		ns, err := r.kinds.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue // so there are no pods in it either
		}
		if err != nil {
			return nil, "", refused("namespaces", fmt.Errorf("reading Namespace %s, whose labels decide what policies mean: %w", name, err))
		}
		all = append(all, ns)
	}
	return all, r.only("Namespaces") + "pods of other namespaces cannot be asked about.", nil
}
