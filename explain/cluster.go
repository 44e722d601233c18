package explain

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
)

// Cluster is what is known of a cluster, from its API server or from files. Nothing in it is changed
// by this package.
type Cluster struct {
	// Snapshot has all pods, also those on their node's network and those that have ended, with
	// status.conditions and metadata.ownerReferences. Some may stand for pods that are not there
	// (v1alpha1.StandInAnnotation), as for those of a CronJob between two runs. Node, Attachments and LastPodCIDRs are not set:
	// it is no node's view.
	policy.Snapshot
	Services       []*corev1.Service
	EndpointSlices []*discoveryv1.EndpointSlice
	// Workloads are what pods may be owned by: Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs
	// and CronJobs, with their TypeMeta and metadata alone.
	Workloads []*metav1.PartialObjectMetadata
	// Selectors are what workloads select their pods by, of those that have a selector of their own: Deployments,
	// StatefulSets and DaemonSets. Nil: they were not read.
	Selectors map[Object]*metav1.LabelSelector `json:"-"`
	// NamesKnown: Resolutions are all that nodes know of domain names. Otherwise nobody was asked, and names mean nobody
	// but by the Resolutions that there are.
	NamesKnown bool
	// Lapsed are Resolutions of before, which do not count any more.
	Lapsed []policy.Resolution
	// Running: this is a cluster that is running, where podfence's agents are pods too. In files, pods
	// and addresses may be placeholders, and nobody expects agents.
	Running bool
}
